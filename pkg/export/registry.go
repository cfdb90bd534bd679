package export

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
)

// Source is what a Registry needs of a store.
type Source interface {
	store.Publisher
	store.Modifier
	Stat(ctx context.Context, id store.ID) (store.Info, error)
	Lookup(ctx context.Context, ref string) (store.Info, error)
	Walk(ctx context.Context, fn func(store.Info) error) error
	Open(ctx context.Context, id store.ID) (store.Device, error)
}

// Config is policy. The zero value serves plain names on unix sockets only.
type Config struct {
	// PlainOverTCP allows plain names and listing on listeners other than unix
	// sockets, to whoever can connect.
	PlainOverTCP bool
	// Patience is how long a plain client waits for the session before it to end,
	// so that one program can follow another; default 1 s.
	Patience time.Duration
}

// Registry is the nbd.Backend of a store, and a store.Publisher whose Unpublish
// also ends the connections of the node.
type Registry struct {
	src Source
	cfg Config

	mu      sync.Mutex
	objects map[store.ID]*object
}

var (
	_ nbd.Backend     = (*Registry)(nil)
	_ store.Publisher = (*Registry)(nil)
	_ store.Modifier  = (*Registry)(nil)
)

// New makes a registry for a store, which outlives it.
func New(src Source, cfg Config) *Registry {
	if cfg.Patience == 0 {
		cfg.Patience = time.Second
	}
	return &Registry{src: src, cfg: cfg, objects: make(map[store.ID]*object)}
}

// object is what is known of one image or snapshot that is in use. All fields but
// gate and dev are guarded by Registry.mu.
type object struct {
	id  store.ID
	dev device

	// gate is held while publications are compared or changed, so that who was
	// found entitled is registered before that can change.
	gate chan struct{}

	limit   limiter // of an image; its own lock
	traffic traffic

	source   store.ID // what it is the private head of, or ""
	users    int      // calls that hold a pointer to it
	peer     string
	plain    map[*nbd.Conn]struct{} // the session of peer
	attached map[uint64]*attached   // by epoch
}

// attached is the use of one publication. It is kept, without connections, until
// the publication is withdrawn, because newest must be remembered.
type attached struct {
	node      string
	withdrawn bool
	newest    uint64
	conns     map[*nbd.Conn]uint64 // generations
}

// object finds or makes the object; release must follow.
func (r *Registry) object(id store.ID) *object {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.objects[id]
	if o == nil {
		o = &object{
			id: id, gate: make(chan struct{}, 1),
			plain: make(map[*nbd.Conn]struct{}), attached: make(map[uint64]*attached),
		}
		o.dev = device{src: r.src, id: id, gate: make(chan struct{}, 1)}
		r.objects[id] = o
	}
	o.users++
	return o
}

func (r *Registry) release(o *object) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o.users--
	for epoch, a := range o.attached {
		if a.withdrawn && len(a.conns) == 0 {
			delete(o.attached, epoch)
		}
	}
	if o.users == 0 && len(o.plain) == 0 && len(o.attached) == 0 {
		delete(r.objects, o.id)
	}
}

// enter takes the gate.
func (o *object) enter(ctx context.Context) error {
	select {
	case o.gate <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (o *object) leave() { <-o.gate }

// plainAllowed is the policy for plain names and listing.
func (r *Registry) plainAllowed(c *nbd.Conn) error {
	if c.Network() == "unix" || r.cfg.PlainOverTCP {
		return nil
	}
	return nbd.Refuse(nbd.Policy, "images are served by name on the local socket only")
}

// find resolves a plain name.
func (r *Registry) find(ctx context.Context, n name, c *nbd.Conn) (store.Info, error) {
	if err := r.plainAllowed(c); err != nil {
		return store.Info{}, err
	}
	var info store.Info
	var err error
	if store.IsID(n.plain) {
		info, err = r.src.Stat(ctx, store.ID(n.plain))
	} else {
		info, err = r.src.Lookup(ctx, n.plain)
	}
	if err != nil {
		return store.Info{}, refused(fmt.Sprintf("%q", n.plain), err)
	}
	return info, nil
}

// refused tells a client why a store did not give an object.
func refused(what string, err error) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return &nbd.Refusal{Reason: nbd.Unknown, Message: "there is no image or snapshot " + what, Err: err}
	case errors.Is(err, store.ErrInvalid):
		return &nbd.Refusal{Reason: nbd.Unknown, Message: err.Error()}
	case errors.Is(err, store.ErrClosed):
		return &nbd.Refusal{Reason: nbd.Shutdown, Message: "the store is shutting down", Err: err}
	}
	return &nbd.Refusal{Reason: nbd.Policy, Message: fmt.Sprintf("%s cannot be served: %v", what, err)}
}

// entitled checks epoch and token against the store and returns the publication,
// with all others of the object.
func (r *Registry) entitled(ctx context.Context, n name) (store.Publication, []store.Publication, error) {
	pubs, err := r.src.Publications(ctx, n.id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return store.Publication{}, nil, refused("image "+string(n.id), err)
	}
	for _, p := range pubs {
		if p.Epoch != n.epoch {
			continue
		}
		if subtle.ConstantTimeCompare([]byte(p.Token), []byte(n.token)) != 1 {
			return store.Publication{}, nil, nbd.Refuse(nbd.Policy, "the token of epoch %d is wrong", n.epoch)
		}
		if p.Target != n.id {
			return store.Publication{}, nil, nbd.Refuse(nbd.Policy, "the publication with epoch %d gives its node a private head, which has another id", n.epoch)
		}
		return p, pubs, nil
	}
	return store.Publication{}, nil, nbd.Refuse(nbd.Policy, "the publication with epoch %d was withdrawn or never existed", n.epoch)
}

// Describe answers without opening anything; that a writer would be refused is
// found out by Open.
func (r *Registry) Describe(ctx context.Context, exportName string, c *nbd.Conn) (nbd.ExportInfo, error) {
	info, readOnly, err := r.resolve(ctx, exportName, c)
	if err != nil {
		return nbd.ExportInfo{}, err
	}
	return describe(info, readOnly), nil
}

// resolve finds the object of a name that this client may use.
func (r *Registry) resolve(ctx context.Context, exportName string, c *nbd.Conn) (store.Info, bool, error) {
	n, err := parseName(exportName)
	if err != nil {
		return store.Info{}, false, err
	}
	if n.plain != "" {
		info, err := r.find(ctx, n, c)
		if err != nil {
			return store.Info{}, false, err
		}
		pubs, err := r.src.Publications(ctx, info.ID)
		if err != nil {
			return store.Info{}, false, refused(info.Ref(), err)
		}
		return info, n.readOnly || len(pubs) > 0, nil
	}
	p, _, err := r.entitled(ctx, n)
	if err != nil {
		return store.Info{}, false, err
	}
	info, err := r.src.Stat(ctx, n.id)
	if err != nil {
		return store.Info{}, false, refused("image "+string(n.id), err)
	}
	return info, !writable(p), nil
}

// writable tells whether what a publication attaches can be written.
func writable(p store.Publication) bool { return p.Access != store.AccessRead }

// errEnough ends a walk early.
var errEnough = errors.New("enough")

// List names all images and snapshots, if the policy allows it.
func (r *Registry) List(ctx context.Context, c *nbd.Conn) ([]nbd.ListEntry, error) {
	if err := r.plainAllowed(c); err != nil {
		return nil, err
	}
	const most = 20000 // more than a server lists
	var entries []nbd.ListEntry
	err := r.src.Walk(ctx, func(i store.Info) error {
		if len(entries) == most {
			return errEnough
		}
		entries = append(entries, nbd.ListEntry{Name: i.Ref(), Description: description(i)})
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, refused("list", err)
	}
	return entries, nil
}

// InUse tells who uses an image or snapshot through this registry, or "". It is
// for messages; what it says may change at once.
func (r *Registry) InUse(id store.ID) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.objects[id]
	if o == nil {
		return ""
	}
	for _, a := range o.attached {
		if len(a.conns) > 0 {
			return "node " + a.node
		}
	}
	if len(o.plain) > 0 {
		return o.peer
	}
	return ""
}
