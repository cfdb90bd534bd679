package layered

import (
	"strings"

	"github.com/strata-csi/strata/pkg/vfs"
)

// layersFS is the file system of the layers below the pool, which keeps data files out
// of the page cache where that was asked for. Maps and indexes are small, read again
// and again, and written record by record: they stay in it.
func (st *Store) layersFS() vfs.FS {
	if !st.opts.DirectIO {
		return st.opts.FS
	}
	isData := func(name string) bool { return strings.HasSuffix(name, ".data") }
	return vfs.NewDirect(st.opts.FS, isData, func(name string, err error) {
		st.opts.OnEvent(Event{name, "the file system refuses direct I/O; the page cache is used", err})
	})
}
