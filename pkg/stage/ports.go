package stage

import (
	"context"
	"os"

	"github.com/strata-csi/strata/pkg/attach"
	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
)

// Finder finds stores. Each call looks anew: a store may have moved.
type Finder interface {
	// Find connects to one store of a pool. ErrUnavailable if it cannot be reached
	// now, ErrFenced if it was given up for ever, ErrNotFound if there is no such pool.
	Find(ctx context.Context, pool, uuid string) (Connection, error)
	// Lookup finds an image or snapshot by its name ("image" or "image@snapshot") in
	// all stores of a pool.
	Lookup(ctx context.Context, pool, ref string) (uuid string, info store.Info, err error)
	// Each calls fn for every store of every pool that answers. Errors of fn do not end
	// it; they are returned, joined, as are those of pools that cannot be looked at.
	Each(ctx context.Context, fn func(uuid string, api API) error) error
}

// Connection is a store that was found. It is valid for the calls that follow at
// once, and is not kept.
type Connection struct {
	API API
	// Targets are where the store serves NBD, the best first; Export is ignored.
	Targets []nbd.Target
}

// API is what a node asks of a store.
type API interface {
	Status(ctx context.Context) (store.Status, error)
	Stat(ctx context.Context, id store.ID) (store.Info, error)
	Usage(ctx context.Context, id store.ID) (store.Usage, error)
	Modify(ctx context.Context, image store.ID, c store.Change) (store.Info, error)
	Publish(ctx context.Context, id store.ID, node string, access store.Access) (store.Publication, error)
	Unpublish(ctx context.Context, id store.ID, node string) error
	Publications(ctx context.Context, id store.ID) ([]store.Publication, error)
	Note(ctx context.Context, key string) (string, error)
	SwapNote(ctx context.Context, key, old, value string) error
}

// Dial connects to an export and returns a socket on which the kernel can go on. A
// refusal by the server is a *nbd.Refusal. The export's name holds a secret.
type Dial func(ctx context.Context, target nbd.Target, export string) (*os.File, nbd.Negotiated, error)

// Kernel makes block devices of sockets: *attach.Kernel, whose methods say what they
// promise. A socket given to it is its own from then on, also when the call fails.
type Kernel interface {
	Connect(ctx context.Context, r attach.Request) (attach.Device, error)
	Reconnect(ctx context.Context, d attach.Device, r attach.Request) error
	Replace(ctx context.Context, d attach.Device, dial attach.Dial) error
	Resize(ctx context.Context, d attach.Device, size int64) error
	Disconnect(ctx context.Context, d attach.Device) error
	Devices(ctx context.Context) ([]attach.Device, error)
	Find(ctx context.Context, backend string) ([]attach.Device, error)
	Moved(d attach.Device) (int64, error)
	Free() (int, error)
	Watch(ctx context.Context, fn func(index int))
}

var _ Kernel = (*attach.Kernel)(nil)
