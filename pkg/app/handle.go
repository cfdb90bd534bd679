package app

import (
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/volume"
)

// VolumeHandle is the id by which a controller knows an image or a snapshot that is on the
// store with that UUID, in the pool of that name.
func VolumeHandle(poolName string, i store.Info, storeUUID string) (string, error) {
	return volume.Handle(poolName, i, storeUUID)
}
