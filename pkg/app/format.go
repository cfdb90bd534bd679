package app

import (
	"errors"
	"fmt"
	"os"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
)

// Format is the version of the format of a data directory.
type Format = layered.Format

// UpgradeFormat brings the data directory of the embedded engine to the format that this
// program works with, and returns what it was. store.ErrInUse while it is served,
// store.ErrUnsupported if it is newer, and then nothing is changed. A gateway's directory
// holds no data, and has no format.
func UpgradeFormat(dir string) (f Format, err error) {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return f, fmt.Errorf("data directory %s does not exist: %w", dir, store.ErrNotFound)
	}
	l, err := lockDir(dir)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, l.unlock()) }()
	return layered.UpgradeFormat(dir)
}
