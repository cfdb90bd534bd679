package layered

import (
	"fmt"
	"path/filepath"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// Format is the version of the format of a data directory: of the catalogue, layers and
// all else in it. It is written when the directory is made, and changed by UpgradeFormat
// only, so that the version of strata which served it before can do so again.
type Format struct {
	// Version is the directory's, Current is what this program works with.
	Version int `json:"version"`
	Current int `json:"current"`
}

// ReadFormat returns the format of a data directory, whether this program knows it or not.
// store.ErrNotFound if it is none; store.ErrInUse while it is served.
func ReadFormat(dir string) (Format, error) {
	version, err := meta.ReadFormat(filepath.Join(dir, catalogueFile))
	if err != nil {
		return Format{}, err
	}
	return Format{Version: version, Current: meta.Format}, nil
}

// UpgradeFormat brings a data directory that is not served to the current format, and
// returns what it was before. A newer one is store.ErrUnsupported, and nothing is changed.
// There has been one format so far, so there is nothing to bring forward.
func UpgradeFormat(dir string) (Format, error) {
	f, err := ReadFormat(dir)
	if err != nil {
		return f, err
	}
	if f.Version < f.Current {
		return f, fmt.Errorf("data directory %s: format version %d was never written by strata: %w", dir, f.Version, store.ErrCorrupt)
	}
	if err := meta.CheckFormat(f.Version); err != nil {
		return f, fmt.Errorf("data directory %s: %w", dir, err)
	}
	return f, nil
}
