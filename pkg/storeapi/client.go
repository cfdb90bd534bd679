package storeapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"unicode/utf8"

	"google.golang.org/grpc"

	"github.com/strata-csi/strata/pkg/pki"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi/storepb"
)

// Client is a store.Full in another process. Safe for concurrent use. Besides the
// errors of the store, every method may answer store.ErrUnavailable.
type Client struct {
	api   address
	files pki.Files
	conn  *grpc.ClientConn
	rpc   storepb.StoreClient

	mu      sync.Mutex
	closed  bool
	devices map[*device]struct{}
	edges   map[store.ID]*edgeLock
}

var _ store.Full = (*Client)(nil)

// Dial prepares a client of the store at addr: the path of its unix socket or data
// directory, or host:port. It does not wait for the store; the first call does.
// ErrInvalid when addr is none of these, or leads over a network that opts do not allow;
// the errors of pki.Files.Check when it is TCP and the files are of no use.
func Dial(addr string, opts DialOptions) (*Client, error) {
	api, err := parseAddress(addr)
	if err != nil {
		return nil, err
	}
	if err := opts.check(api); err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(api.target(), opts.grpcOptions(api)...)
	if err != nil {
		return nil, fmt.Errorf("store at %s: %w", api.value, errors.Join(err, store.ErrInvalid))
	}
	return &Client{
		api: api, files: opts.TLS, conn: conn, rpc: storepb.NewStoreClient(conn),
		devices: make(map[*device]struct{}), edges: make(map[store.ID]*edgeLock),
	}, nil
}

// Address is where the store was looked for, for messages.
func (c *Client) Address() string { return c.api.value }

// Close closes the connection and every device still open, which it flushes first.
// The store itself goes on. Closing twice is no error.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	open := make([]*device, 0, len(c.devices))
	for d := range c.devices {
		open = append(open, d)
	}
	c.mu.Unlock()
	var errs []error
	for _, d := range open {
		errs = append(errs, d.Flush(), d.Close())
	}
	return errors.Join(append(errs, c.conn.Close())...)
}

// ready refuses calls on a closed client, and text that the wire cannot carry.
func (c *Client) ready(text ...string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return fmt.Errorf("client of the store at %s: %w", c.api.value, store.ErrClosed)
	}
	for _, s := range text {
		if !utf8.ValidString(s) {
			return fmt.Errorf("%q is not valid UTF-8: %w", s, store.ErrInvalid)
		}
	}
	return nil
}

// fail makes an error of a call one of the store's.
func (c *Client) fail(err error) error {
	if closed := c.ready(); err != nil && closed != nil {
		return closed
	}
	return fromStatus(c.api.value, err)
}

// call runs one unary method and converts its reply.
func call[Q, P, R any](ctx context.Context, c *Client,
	method func(context.Context, Q, ...grpc.CallOption) (P, error), req Q, conv func(P) R, text ...string,
) (R, error) {
	var none R
	if err := c.ready(text...); err != nil {
		return none, err
	}
	reply, err := method(ctx, req)
	if err != nil {
		return none, c.fail(err)
	}
	return conv(reply), nil
}

// order runs one unary method without an answer.
func order[Q any](ctx context.Context, c *Client,
	method func(context.Context, Q, ...grpc.CallOption) (*storepb.Empty, error), req Q, text ...string,
) error {
	_, err := call(ctx, c, method, req, func(*storepb.Empty) struct{} { return struct{}{} }, text...)
	return err
}

// receive runs one streaming method and calls each with every message. An error of
// each ends the stream and is returned as it is.
func receive[Q, M any](ctx context.Context, c *Client,
	method func(context.Context, Q, ...grpc.CallOption) (grpc.ServerStreamingClient[M], error),
	req Q, each func(*M) error, text ...string,
) error {
	if err := c.ready(text...); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in, err := method(ctx, req)
	if err != nil {
		return c.fail(err)
	}
	for {
		m, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return c.fail(err)
		}
		if err := each(m); err != nil {
			return err
		}
	}
}

func object(id store.ID) *storepb.ObjectRequest { return &storepb.ObjectRequest{Id: string(id)} }

// Create implements store.Store.
func (c *Client) Create(ctx context.Context, spec store.Spec) (store.Info, error) {
	return call(ctx, c, c.rpc.Create, specToProto(spec), infoFromProto, spec.Name, string(spec.Parent))
}

// Adopt implements store.Adopter. Stores that cannot answer store.ErrUnsupported.
func (c *Client) Adopt(ctx context.Context, a store.Adoption) (store.Info, error) {
	req := &storepb.AdoptRequest{Source: a.Source, Name: a.Name, BlockSize: int64(a.BlockSize), Policy: policyToProto(a.Policy)}
	return call(ctx, c, c.rpc.Adopt, req, infoFromProto, a.Source, a.Name)
}

// Snapshot implements store.Store.
func (c *Client) Snapshot(ctx context.Context, image store.ID, name string) (store.Info, error) {
	req := &storepb.SnapshotRequest{Image: string(image), Name: name}
	return call(ctx, c, c.rpc.Snapshot, req, infoFromProto, string(image), name)
}

// Stat implements store.Store.
func (c *Client) Stat(ctx context.Context, id store.ID) (store.Info, error) {
	return call(ctx, c, c.rpc.Stat, object(id), infoFromProto, string(id))
}

// Lookup implements store.Store.
func (c *Client) Lookup(ctx context.Context, ref string) (store.Info, error) {
	return call(ctx, c, c.rpc.Lookup, &storepb.LookupRequest{Ref: ref}, infoFromProto, ref)
}

// Resize implements store.Store.
func (c *Client) Resize(ctx context.Context, image store.ID, size int64) (store.Info, error) {
	req := &storepb.ResizeRequest{Image: string(image), Size: size}
	return call(ctx, c, c.rpc.Resize, req, infoFromProto, string(image))
}

// Modify implements store.Modifier.
func (c *Client) Modify(ctx context.Context, image store.ID, change store.Change) (store.Info, error) {
	req := changeToProto(image, change)
	return call(ctx, c, c.rpc.Modify, req, infoFromProto, string(image), req.GetFormat())
}

// Remove implements store.Store.
func (c *Client) Remove(ctx context.Context, id store.ID) error {
	return order(ctx, c, c.rpc.Remove, object(id), string(id))
}

// Revert implements store.Reverter.
func (c *Client) Revert(ctx context.Context, image, snapshot store.ID) error {
	req := &storepb.RevertRequest{Image: string(image), Snapshot: string(snapshot)}
	return order(ctx, c, c.rpc.Revert, req, string(image), string(snapshot))
}

// Usage implements store.Inspector.
func (c *Client) Usage(ctx context.Context, id store.ID) (store.Usage, error) {
	return call(ctx, c, c.rpc.Usage, object(id), usageFromProto, string(id))
}

// Status implements store.Inspector.
func (c *Client) Status(ctx context.Context) (store.Status, error) {
	return call(ctx, c, c.rpc.Status, &storepb.StatusRequest{}, statusFromProto)
}

// Publish implements store.Publisher.
func (c *Client) Publish(ctx context.Context, id store.ID, node string, access store.Access) (store.Publication, error) {
	req := &storepb.PublishRequest{Id: string(id), Node: node, Access: string(access)}
	return call(ctx, c, c.rpc.Publish, req, publicationFromProto, string(id), node, string(access))
}

// Unpublish implements store.Publisher.
func (c *Client) Unpublish(ctx context.Context, id store.ID, node string) error {
	req := &storepb.UnpublishRequest{Id: string(id), Node: node}
	return order(ctx, c, c.rpc.Unpublish, req, string(id), node)
}

// Note implements store.Notebook.
func (c *Client) Note(ctx context.Context, key string) (string, error) {
	value := func(r *storepb.NoteReply) string { return string(r.GetValue()) }
	return call(ctx, c, c.rpc.Note, &storepb.NoteRequest{Key: []byte(key)}, value)
}

// SwapNote implements store.Notebook.
func (c *Client) SwapNote(ctx context.Context, key, old, value string) error {
	return order(ctx, c, c.rpc.SwapNote, &storepb.SwapNoteRequest{Key: []byte(key), Old: []byte(old), Value: []byte(value)})
}

// StartFlatten implements store.JobRunner.
func (c *Client) StartFlatten(ctx context.Context, image store.ID) (store.Job, error) {
	return call(ctx, c, c.rpc.StartFlatten, object(image), jobFromProto, string(image))
}

// StartScrub implements store.Scrubber. Stores that cannot answer store.ErrUnsupported.
func (c *Client) StartScrub(ctx context.Context) (store.Job, error) {
	return call(ctx, c, c.rpc.StartScrub, &storepb.ScrubRequest{}, jobFromProto)
}

// PauseJob implements store.JobRunner.
func (c *Client) PauseJob(ctx context.Context, job string) error {
	return order(ctx, c, c.rpc.PauseJob, &storepb.JobRequest{Job: job}, job)
}

// ResumeJob implements store.JobRunner.
func (c *Client) ResumeJob(ctx context.Context, job string) error {
	return order(ctx, c, c.rpc.ResumeJob, &storepb.JobRequest{Job: job}, job)
}

// CancelJob implements store.JobRunner.
func (c *Client) CancelJob(ctx context.Context, job string) error {
	return order(ctx, c, c.rpc.CancelJob, &storepb.JobRequest{Job: job}, job)
}
