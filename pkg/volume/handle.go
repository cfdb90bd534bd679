package volume

import (
	"fmt"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
)

// Handle is the id under which a Service knows an image or a snapshot that is on the
// store with that UUID, in the pool of that name. It is how what was not made by a Service
// gets to be used as a volume. ErrInvalid if pool is no name.
func Handle(poolName string, i store.Info, storeUUID string) (string, error) {
	if err := pool.ValidateName(poolName); err != nil {
		return "", fmt.Errorf("id of %s: %w", i.Ref(), err)
	}
	prefix := volumePrefix
	if i.Kind == store.KindSnapshot {
		prefix = snapshotPrefix
	}
	return id{prefix: prefix, pool: poolName, object: i.ID, store: storeUUID}.String(), nil
}
