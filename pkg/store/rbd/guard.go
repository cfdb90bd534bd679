//go:build ceph

package rbd

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// statusAtOnce is how many requests for the status ask the cluster at once.
const statusAtOnce = 2

// lookEvery is how often a gateway finds out whether it is shut out, and whether
// publications that it has connections of were withdrawn through another.
const lookEvery = time.Second

// Guarded is a Store that notices when the cluster has shut its client out, as whoever
// takes it for dead does. From then on it is of no use: its devices answer ErrClosed, so
// that clients are cut off and come back to whoever serves next, instead of being told
// of a failed write. Close it and open another. It also keeps gateways of one pool from
// serving what was withdrawn through another: see Hold.
type Guarded struct {
	*Store
	holds  holdSet
	asking chan struct{} // slots of Status
	asked  sync.WaitGroup
	out    chan struct{}
	once   sync.Once
	stop   context.CancelFunc
	done   chan struct{}
}

// Guard begins to watch over a store; closing the result closes the store.
func Guard(s *Store) *Guarded {
	ctx, stop := context.WithCancel(context.Background())
	g := &Guarded{Store: s, asking: make(chan struct{}, statusAtOnce), out: make(chan struct{}), stop: stop, done: make(chan struct{})}
	g.holds = holdSet{byID: make(map[holdID]*hold), wake: make(chan struct{}, 1)}
	go g.look(ctx)
	return g
}

// Fenced is closed once the cluster has shut this client out.
func (g *Guarded) Fenced() <-chan struct{} { return g.out }

// look asks the cluster now and then, and when a connection has ended.
func (g *Guarded) look(ctx context.Context) {
	defer close(g.done)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.out:
			return
		case <-g.holds.wake:
		case <-tick.C:
		}
		_ = g.seen(g.tell(ctx)) // what else may be wrong is told to those who ask
	}
}

// seen looks at what the cluster has answered to a device.
func (g *Guarded) seen(err error) error {
	if err == nil || opErrno(err) != syscall.ESHUTDOWN {
		return err
	}
	g.once.Do(func() { close(g.out) })
	return fmt.Errorf("the cluster has shut this gateway out: %w: %w", err, store.ErrClosed)
}

// Open gives access to the bytes of an image or a snapshot.
func (g *Guarded) Open(ctx context.Context, id store.ID) (store.Device, error) {
	d, err := g.Store.Open(ctx, id)
	if err != nil {
		return nil, g.seen(err)
	}
	return &guardedDevice{Device: d, g: g}, nil
}

// Status describes the store, or says with ErrUnavailable that the cluster has not
// answered before the context ended. It is asked for again and again, by probes and by
// whoever collects figures; while the cluster is away they do not pile up in the library.
func (g *Guarded) Status(ctx context.Context) (store.Status, error) {
	silent := func() error {
		return fmt.Errorf("status: the cluster does not answer: %w: %w", ctx.Err(), store.ErrUnavailable)
	}
	select {
	case g.asking <- struct{}{}:
	case <-ctx.Done():
		return store.Status{}, silent()
	}
	type answer struct {
		status store.Status
		err    error
	}
	got := make(chan answer, 1)
	g.asked.Go(func() {
		defer func() { <-g.asking }()
		st, err := g.Store.Status(context.WithoutCancel(ctx))
		got <- answer{st, err}
	})
	select {
	case a := <-got:
		return a.status, g.seen(a.err)
	case <-ctx.Done():
		return store.Status{}, silent()
	}
}

// Close stops watching and closes the store.
func (g *Guarded) Close() error {
	g.stop()
	<-g.done
	g.asked.Wait()
	return g.Store.Close()
}

// guardedDevice shows its errors to the guard.
type guardedDevice struct {
	store.Device
	g *Guarded
}

// ReadAt implements store.Device.
func (d *guardedDevice) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.Device.ReadAt(p, off)
	return n, d.g.seen(err)
}

// WriteAt implements store.Device.
func (d *guardedDevice) WriteAt(p []byte, off int64) (int, error) {
	n, err := d.Device.WriteAt(p, off)
	return n, d.g.seen(err)
}

// Zero implements store.Device.
func (d *guardedDevice) Zero(off, length int64, allocate bool) error {
	return d.g.seen(d.Device.Zero(off, length, allocate))
}

// Discard implements store.Device.
func (d *guardedDevice) Discard(off, length int64) error {
	return d.g.seen(d.Device.Discard(off, length))
}

// Flush implements store.Device.
func (d *guardedDevice) Flush() error { return d.g.seen(d.Device.Flush()) }

// Extents implements store.Device.
func (d *guardedDevice) Extents(off, length int64, base store.ID, fn func(store.Extent) bool) error {
	return d.g.seen(d.Device.Extents(off, length, base, fn))
}
