//go:build kernelnbd

package scenario

import (
	"path/filepath"
	"testing"
)

// A volume and its file system grow step by step while they are written to: nobody is
// interrupted, and the new space takes what the old one could not have held.
func TestVolumeGrowsUnderLoad(t *testing.T) { growsUnderLoad(single(t, "n1")) }

func growsUnderLoad(c *cluster) {
	t := c.t
	r := random(t)
	v := c.create("grown", 64*mib, fsVolume("ext4"), nil, nil)
	at := c.up(v, "n1")
	fio := startFio(t, at, 16*mib)
	for _, size := range []int64{96 * mib, 128 * mib, 256 * mib} {
		c.expand(v, size)
	}
	large := filepath.Join(at, "data")
	sum := writeFile(t, large, 80*mib, r)
	if got := sumFile(t, large); got != sum {
		t.Errorf("the large file is %s; written was %s", got, sum)
	}
	fio.verify(t)
	c.log.clean(t)
	c.down(v, "n1")
	c.fsck(c.stores[0], "grown", "ext4")
	c.remove(v)
	c.ended()
}
