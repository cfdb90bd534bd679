package storeapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi/storepb"
)

// askTimeout bounds the questions about itself that a device asks the store.
const askTimeout = 10 * time.Second

// device is a store.Device over one NBD connection. Bytes travel by NBD; extents are
// asked of the API, since NBD has no word for what they say of history.
type device struct {
	c        *Client
	id       store.ID
	edges    *edgeLock
	readOnly bool

	// io is held shared by every request and alone while the connection is replaced.
	io sync.RWMutex

	mu     sync.Mutex
	conn   *nbd.Client
	closed bool
	last   store.Info // as of the last answer of the store
}

// edgeLock orders writes that do not cover whole NBD blocks, which are read, changed
// and written, against all other writes of this process to the same image.
type edgeLock struct {
	sync.RWMutex
	users int // guarded by Client.mu
}

// Open implements store.Store. The bytes come from the NBD endpoint of the store; an
// image that another client writes to answers store.ErrInUse.
func (c *Client) Open(ctx context.Context, id store.ID) (store.Device, error) {
	info, err := c.Stat(ctx, id)
	if err != nil {
		return nil, err
	}
	if info.State == store.StateFaulty {
		return nil, fmt.Errorf("open %s: %s: %w", info.Ref(), info.Reason, store.ErrCorrupt)
	}
	conn, err := c.connect(ctx, info)
	if err != nil {
		return nil, err
	}
	d := &device{c: c, id: id, conn: conn, last: info, readOnly: conn.ReadOnly()}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.Join(fmt.Errorf("open %s: %w", info.Ref(), store.ErrClosed), conn.Close())
	}
	if d.edges = c.edges[id]; d.edges == nil {
		d.edges = new(edgeLock)
		c.edges[id] = d.edges
	}
	d.edges.users++
	c.devices[d] = struct{}{}
	return d, nil
}

func (c *Client) connect(ctx context.Context, info store.Info) (*nbd.Client, error) {
	endpoints, err := c.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	t, err := pickEndpoint(c.api, endpoints)
	if err != nil {
		return nil, err
	}
	t.Export = string(info.ID)
	conn, err := c.dialNBD(ctx, t)
	if err == nil {
		return conn, nil
	}
	var refusal *nbd.Refusal
	var dial *net.OpError
	switch {
	case ctx.Err() != nil:
	case errors.As(err, &refusal) && refusal.Reason == nbd.Unknown:
		return nil, fmt.Errorf("open %s: %w: %w", info.Ref(), err, store.ErrNotFound)
	case errors.As(err, &refusal) && refusal.Reason == nbd.Policy:
		return nil, fmt.Errorf("open %s: %w: %w", info.Ref(), err, store.ErrInUse)
	case errors.As(err, &refusal) && refusal.Reason == nbd.Shutdown, errors.As(err, &dial):
		return nil, fmt.Errorf("open %s: %w: %w", info.Ref(), err, store.ErrUnavailable)
	}
	return nil, fmt.Errorf("open %s: %w", info.Ref(), err)
}

// lingerTimeout bounds how long closing a device waits for the server to let go of it.
const lingerTimeout = 5 * time.Second

// dialNBD connects to an export. Whoever has closed the device may remove, revert or
// publish the image at once, since the server has released it by then.
func (c *Client) dialNBD(ctx context.Context, t nbd.Target) (*nbd.Client, error) {
	d := nbd.Dialer{Label: fmt.Sprintf("export %q", t.Export), Linger: lingerTimeout}
	if c.files.Set() {
		d.TLS = c.files.Client()
	}
	conn, err := d.Dial(ctx, t.String())
	if err != nil {
		return nil, c.files.Explain(err)
	}
	return conn, nil
}

// forget takes a closed device off the books.
func (c *Client) forget(d *device) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.devices, d)
	if d.edges.users--; d.edges.users == 0 {
		delete(c.edges, d.id)
	}
}

// Info implements store.Device. When the store cannot be asked, it is the last known.
func (d *device) Info() store.Info {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	info, err := d.c.Stat(ctx, d.id)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		d.last = info
	}
	return d.last
}

// Close implements store.Device. Requests under way end with store.ErrClosed.
func (d *device) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	conn := d.conn
	d.mu.Unlock()
	err := conn.Close()
	d.io.Lock() // whoever was inside has left
	defer d.io.Unlock()
	d.c.forget(d)
	return err
}

// Flush implements store.Device.
func (d *device) Flush() error {
	d.io.RLock()
	defer d.io.RUnlock()
	conn, err := d.current()
	if err == nil && !d.readOnly {
		err = conn.Flush()
	}
	return d.fail("flush", 0, 0, err)
}

// Extents implements store.Device.
func (d *device) Extents(off, length int64, base store.ID, fn func(store.Extent) bool) error {
	if _, err := d.current(); err != nil {
		return d.fail("extents", off, length, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req := &storepb.ExtentsRequest{Id: string(d.id), Offset: off, Length: length, Base: string(base)}
	err := receive(ctx, d.c, d.c.rpc.Extents, req, func(m *storepb.ExtentPage) error {
		for _, e := range m.GetItems() {
			if !fn(extentFromProto(e)) {
				return errEnough
			}
		}
		return nil
	}, string(base))
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// errEnough ends a stream whose reader has seen enough.
var errEnough = errors.New("enough")

// current is the connection to use; the caller holds io.
func (d *device) current() (*nbd.Client, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, store.ErrClosed
	}
	return d.conn, nil
}

// fail classifies an error of a request and says what it was about.
func (d *device) fail(op string, off, length int64, err error) error {
	if err == nil {
		return nil
	}
	d.mu.Lock()
	ref, closed := d.last.Ref(), d.closed
	d.mu.Unlock()
	if op != "flush" {
		op = fmt.Sprintf("%s %d bytes at %d of", op, length, off)
	}
	is := kindOf(err)
	switch {
	case closed:
		return fmt.Errorf("%s %s: %w", op, ref, store.ErrClosed)
	case is == nil:
		return fmt.Errorf("%s %s: %w", op, ref, err)
	}
	return fmt.Errorf("%s %s: %w: %w", op, ref, err, is)
}

// kindOf finds the sentinel for an error of the NBD client, nil if there is none or
// err has one already.
func kindOf(err error) error {
	for _, row := range table() {
		if errors.Is(err, row.is) {
			return nil
		}
	}
	var errno nbd.Errno
	if !errors.As(err, &errno) {
		return store.ErrUnavailable // the connection is lost
	}
	switch errno {
	case nbd.EPERM:
		return store.ErrReadOnly
	case nbd.ENOSPC:
		return store.ErrNoSpace
	case nbd.EINVAL, nbd.EOVERFLOW:
		return store.ErrInvalid
	case nbd.ENOTSUP:
		return store.ErrUnsupported
	case nbd.ESHUTDOWN:
		return store.ErrUnavailable
	}
	return nil
}
