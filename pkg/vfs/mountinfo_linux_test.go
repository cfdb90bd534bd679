package vfs

import (
	"strings"
	"testing"
)

func TestPickMount(t *testing.T) {
	const info = `27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:40 / /tmp rw shared:5 master:2 - tmpfs tmpfs rw
garbage
35 27 8:16 /sub /with\040space rw,noatime shared:7 - xfs /dev/sdb rw,attr2
36 27 0:50 /@home /home rw - btrfs /dev/sdc rw,subvol=/@home
`
	for _, c := range []struct {
		id, device string
		want       mount
	}{
		{"35", "8:16", mount{"8:16", "xfs"}},
		{"36", "0:51", mount{"0:50", "btrfs"}}, // st_dev of the subvolume is not listed
		{"", "8:16", mount{"8:16", "xfs"}},     // kernels that do not tell the mount id
		{"99", "0:40", mount{"0:40", "tmpfs"}},
		{"99", "7:7", mount{device: "7:7"}},
	} {
		got, err := pickMount(strings.NewReader(info), c.id, c.device)
		if err != nil || got != c.want {
			t.Errorf("id %q device %q: %+v, %v, want %+v", c.id, c.device, got, err, c.want)
		}
	}
}

func TestSuperblockDir(t *testing.T) {
	for _, fstype := range []string{"tmpfs", "overlay", ""} {
		if dir, err := (mount{device: "0:40", fstype: fstype}).superblockDir("/"); dir != "" || err != nil {
			t.Errorf("%s has directory %q, %v", fstype, dir, err)
		}
	}
	if dir, err := (mount{device: "4095:1048575", fstype: "ext3"}).superblockDir("/"); dir != "" || err != nil {
		t.Errorf("a device that is not there has directory %q, %v", dir, err)
	}
}
