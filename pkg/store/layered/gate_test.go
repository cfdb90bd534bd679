package layered_test

import (
	"os"

	"github.com/strata-csi/strata/pkg/store/storetest"
	"github.com/strata-csi/strata/pkg/vfs"
)

// gatedFS lets every write of a file pass through a gate of the model checker: writers
// are held where they have the engine's locks and their bytes reach the disk. It stands
// above what crashes, so that a write let go after a crash takes no effect.
type gatedFS struct {
	vfs.FS
	gate *storetest.Gate
}

func (g gatedFS) OpenFile(name string, flag int, perm os.FileMode) (vfs.File, error) {
	f, err := g.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return gatedFile{f, g.gate}, nil
}

type gatedFile struct {
	vfs.File
	gate *storetest.Gate
}

// Unwrap is the file below, for CloneRange and direct I/O.
func (f gatedFile) Unwrap() vfs.File { return f.File }

func (f gatedFile) WriteAt(p []byte, off int64) (int, error) {
	return f.gate.Pass(p, func() (int, error) { return f.File.WriteAt(p, off) })
}

// NextData implements vfs.DataFinder.
func (f gatedFile) NextData(off int64) (int64, error) { return vfs.NextData(f.File, off) }
