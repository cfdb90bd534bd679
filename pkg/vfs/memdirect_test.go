package vfs_test

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/strata-csi/strata/pkg/vfs"
)

// A file that is used directly takes whole blocks only, also after a power cut.
func TestMemDirectIO(t *testing.T) {
	m := memWith(t, "/d")
	set := func(m *vfs.Mem) (vfs.File, error) {
		f := open(t, m, "/d/f", os.O_RDWR|os.O_CREATE)
		return f, f.(interface{ SetDirect(bool) error }).SetDirect(true)
	}
	_, err := set(m)
	wantErr(t, err, syscall.EINVAL)
	m.SetDirectIO(true)
	must(t, errors.Join(m.SyncDir("/"), m.SyncDir("/d")))
	for _, disk := range []*vfs.Mem{m, m.PowerCut(nil)} {
		f, err := set(disk)
		must(t, err)
		_, err = f.WriteAt(make([]byte, 512), 0)
		wantErr(t, err, syscall.EINVAL)
		_, err = f.ReadAt(make([]byte, 4097)[1:], 0)
		wantErr(t, err, syscall.EINVAL)
		_, err = f.WriteAt(make([]byte, 8192)[:4096], 100)
		wantErr(t, err, syscall.EINVAL)
	}
}
