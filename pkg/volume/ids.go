package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
)

const (
	volumePrefix   = "v1"
	snapshotPrefix = "s1"
	// internalPrefix begins the names of snapshots that are not shown.
	internalPrefix = "strata-copy-"
)

// id is what an id of a volume or a snapshot says.
type id struct {
	prefix string
	pool   string
	object store.ID
	store  string // where it was made; a hint
}

// String is the id as it is handed out, at most 118 bytes.
func (i id) String() string {
	return strings.Join([]string{i.prefix, i.pool, string(i.object), i.store}, ":")
}

// key orders ids and identifies the object, wherever it is.
func (i id) key() string { return i.pool + ":" + string(i.object) }

// parseID reads an id of the kind that prefix tells. One that was not made here names
// nothing that exists: ErrNotFound.
func parseID(prefix, s string) (id, error) {
	parts := strings.Split(s, ":")
	if len(parts) == 4 && parts[0] == prefix && pool.ValidateName(parts[1]) == nil && store.IsID(parts[2]) && store.IsID(parts[3]) {
		return id{prefix: parts[0], pool: parts[1], object: store.ID(parts[2]), store: parts[3]}, nil
	}
	what := "volume"
	if prefix == snapshotPrefix {
		what = "snapshot"
	}
	return id{}, fmt.Errorf("%s id %q was not made by this driver: %w", what, clip(s), store.ErrNotFound)
}

// objectName is the name in the store of what is called name outside.
func objectName(kind store.Kind, name string) string {
	if store.ValidateName(kind, name) == nil && !strings.HasPrefix(name, internalPrefix) && len(name) <= 128 {
		return name
	}
	return "csi-" + hash(name)
}

// hash is a name for anything, of 40 safe characters.
func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:20])
}

func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

// Same tells whether two ids name the same volume or the same snapshot.
func Same(a, b string) bool {
	for _, prefix := range []string{volumePrefix, snapshotPrefix} {
		x, errX := parseID(prefix, a)
		y, errY := parseID(prefix, b)
		if errX == nil && errY == nil {
			return x.key() == y.key()
		}
	}
	return false
}
