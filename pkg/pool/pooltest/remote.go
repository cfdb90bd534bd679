package pooltest

import (
	"context"
	"fmt"
	"sync"

	"github.com/strata-csi/strata/pkg/store"
)

// remote is a connection to whatever store is at an address when it is used.
type remote struct {
	n    *Network
	addr string
}

func (r *remote) Create(ctx context.Context, spec store.Spec) (store.Info, error) {
	return call(r.n, r.addr, "Create", func(s store.Full) (store.Info, error) { return s.Create(ctx, spec) })
}

func (r *remote) Snapshot(ctx context.Context, image store.ID, name string) (store.Info, error) {
	return call(r.n, r.addr, "Snapshot", func(s store.Full) (store.Info, error) { return s.Snapshot(ctx, image, name) })
}

func (r *remote) Stat(ctx context.Context, id store.ID) (store.Info, error) {
	return call(r.n, r.addr, "Stat", func(s store.Full) (store.Info, error) { return s.Stat(ctx, id) })
}

func (r *remote) Lookup(ctx context.Context, ref string) (store.Info, error) {
	return call(r.n, r.addr, "Lookup", func(s store.Full) (store.Info, error) { return s.Lookup(ctx, ref) })
}

func (r *remote) Walk(ctx context.Context, fn func(store.Info) error) error {
	return run(r.n, r.addr, "Walk", func(s store.Full) error { return s.Walk(ctx, fn) })
}

func (r *remote) Resize(ctx context.Context, image store.ID, size int64) (store.Info, error) {
	return call(r.n, r.addr, "Resize", func(s store.Full) (store.Info, error) { return s.Resize(ctx, image, size) })
}

func (r *remote) Flatten(ctx context.Context, image store.ID) error {
	return run(r.n, r.addr, "Flatten", func(s store.Full) error { return s.Flatten(ctx, image) })
}

func (r *remote) Remove(ctx context.Context, id store.ID) error {
	return run(r.n, r.addr, "Remove", func(s store.Full) error { return s.Remove(ctx, id) })
}

// Open gives a device that is closed when the caller never learns of it: with the
// connection the store lets go of what was open over it.
func (r *remote) Open(ctx context.Context, id store.ID) (store.Device, error) {
	var open store.Device
	d, err := call(r.n, r.addr, "Open", func(s store.Full) (store.Device, error) {
		var err error
		if open, err = s.Open(ctx, id); err != nil {
			return nil, err
		}
		return &device{Device: open, r: r, closed: make(chan struct{})}, nil
	})
	if err != nil && open != nil {
		_ = open.Close() // the caller is told of err
	}
	return d, err
}

// Close ends the connection and leaves the store alone.
func (r *remote) Close() error { return nil }

func (r *remote) Revert(ctx context.Context, image, snapshot store.ID) error {
	return run(r.n, r.addr, "Revert", func(s store.Full) error { return s.Revert(ctx, image, snapshot) })
}

func (r *remote) Usage(ctx context.Context, id store.ID) (store.Usage, error) {
	return call(r.n, r.addr, "Usage", func(s store.Full) (store.Usage, error) { return s.Usage(ctx, id) })
}

func (r *remote) Diff(ctx context.Context, from, to store.ID, fn func(store.Extent) error) error {
	return run(r.n, r.addr, "Diff", func(s store.Full) error { return s.Diff(ctx, from, to, fn) })
}

func (r *remote) Children(ctx context.Context, id store.ID) ([]store.Info, error) {
	return call(r.n, r.addr, "Children", func(s store.Full) ([]store.Info, error) { return s.Children(ctx, id) })
}

func (r *remote) Check(ctx context.Context, deep bool) ([]store.Problem, error) {
	return call(r.n, r.addr, "Check", func(s store.Full) ([]store.Problem, error) { return s.Check(ctx, deep) })
}

func (r *remote) Status(ctx context.Context) (store.Status, error) {
	return call(r.n, r.addr, "Status", func(s store.Full) (store.Status, error) {
		if r.n.hurried(ctx, r.addr) {
			return store.Status{}, fmt.Errorf("%s: %w", r.addr, context.DeadlineExceeded)
		}
		st, err := s.Status(ctx)
		r.n.mu.Lock()
		defer r.n.mu.Unlock()
		if free, ok := r.n.free[r.addr]; ok {
			st.Free = free
		}
		st.Node = r.n.node[r.addr]
		return st, err
	})
}

func (r *remote) Publish(ctx context.Context, id store.ID, node string, access store.Access) (store.Publication, error) {
	return call(r.n, r.addr, "Publish", func(s store.Full) (store.Publication, error) { return s.Publish(ctx, id, node, access) })
}

func (r *remote) Unpublish(ctx context.Context, id store.ID, node string) error {
	return run(r.n, r.addr, "Unpublish", func(s store.Full) error { return s.Unpublish(ctx, id, node) })
}

func (r *remote) Publications(ctx context.Context, id store.ID) ([]store.Publication, error) {
	return call(r.n, r.addr, "Publications", func(s store.Full) ([]store.Publication, error) { return s.Publications(ctx, id) })
}

func (r *remote) Modify(ctx context.Context, image store.ID, c store.Change) (store.Info, error) {
	return call(r.n, r.addr, "Modify", func(s store.Full) (store.Info, error) { return s.Modify(ctx, image, c) })
}

func (r *remote) Note(ctx context.Context, key string) (string, error) {
	return call(r.n, r.addr, "Note", func(s store.Full) (string, error) { return s.Note(ctx, key) })
}

func (r *remote) SwapNote(ctx context.Context, key, old, value string) error {
	return run(r.n, r.addr, "SwapNote", func(s store.Full) error { return s.SwapNote(ctx, key, old, value) })
}

func (r *remote) Notes(ctx context.Context, prefix string, fn func(key, value string) error) error {
	return run(r.n, r.addr, "Notes", func(s store.Full) error { return s.Notes(ctx, prefix, fn) })
}

func (r *remote) Jobs(ctx context.Context) ([]store.Job, error) {
	return call(r.n, r.addr, "Jobs", func(s store.Full) ([]store.Job, error) { return s.Jobs(ctx) })
}

func (r *remote) StartFlatten(ctx context.Context, image store.ID) (store.Job, error) {
	return call(r.n, r.addr, "StartFlatten", func(s store.Full) (store.Job, error) { return s.StartFlatten(ctx, image) })
}

func (r *remote) WatchJob(ctx context.Context, job string, fn func(store.Job) error) error {
	return run(r.n, r.addr, "WatchJob", func(s store.Full) error { return s.WatchJob(ctx, job, fn) })
}

func (r *remote) PauseJob(ctx context.Context, job string) error {
	return run(r.n, r.addr, "PauseJob", func(s store.Full) error { return s.PauseJob(ctx, job) })
}

func (r *remote) ResumeJob(ctx context.Context, job string) error {
	return run(r.n, r.addr, "ResumeJob", func(s store.Full) error { return s.ResumeJob(ctx, job) })
}

func (r *remote) CancelJob(ctx context.Context, job string) error {
	return run(r.n, r.addr, "CancelJob", func(s store.Full) error { return s.CancelJob(ctx, job) })
}

// Endpoints are a socket beside the API's and an address that means the whole host.
func (r *remote) Endpoints(context.Context) ([]string, error) {
	return call(r.n, r.addr, "Endpoints", func(store.Full) ([]string, error) {
		return []string{"nbd+unix:///?socket=/data/nbd.sock", "nbd://0.0.0.0:10809"}, nil
	})
}

// device is a device over the network.
type device struct {
	store.Device
	r      *remote
	once   sync.Once
	closed chan struct{}
}

func (d *device) ReadAt(p []byte, off int64) (int, error) {
	return d.request("ReadAt", func() (int, error) { return d.Device.ReadAt(p, off) })
}

func (d *device) WriteAt(p []byte, off int64) (int, error) {
	return d.request("WriteAt", func() (int, error) { return d.Device.WriteAt(p, off) })
}

// request is call for a device, which can be held.
func (d *device) request(op string, do func() (int, error)) (int, error) {
	_, f, err := d.r.n.at(d.r.addr, op)
	switch {
	case err != nil:
		return 0, err
	case f == Hold:
		<-d.closed
		return 0, fmt.Errorf("%s: %s: %w", d.r.addr, op, store.ErrClosed)
	}
	return decided(d.r.addr, op, f, do)
}

// Close ends what is held.
func (d *device) Close() error {
	d.once.Do(func() { close(d.closed) })
	return d.Device.Close()
}
