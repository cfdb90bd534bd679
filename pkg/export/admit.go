package export

import (
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
)

// Open admits a connection, after it has cut and awaited those that it replaces.
func (r *Registry) Open(ctx context.Context, exportName string, c *nbd.Conn) (nbd.Export, error) {
	n, err := parseName(exportName)
	if err != nil {
		return nil, err
	}
	if n.plain != "" {
		return r.openPlain(ctx, n, c)
	}
	return r.openPublished(ctx, n, c)
}

// openPublished admits a connection of a node.
func (r *Registry) openPublished(ctx context.Context, n name, c *nbd.Conn) (nbd.Export, error) {
	p, _, err := r.entitled(ctx, n)
	if err != nil {
		return nil, err // before anything is kept in memory for it
	}
	o := r.object(n.id)
	if p.ID != p.Target { // said before it can be withdrawn: see withdraw
		r.mu.Lock()
		o.source = p.ID
		r.mu.Unlock()
	}
	e := &export{r: r, o: o, conn: c, epoch: n.epoch}
	for {
		readOnly, blockers, err := r.join(ctx, o, n, c)
		if err == nil && len(blockers) > 0 {
			err = cutAndWait(ctx, blockers)
		} else if err == nil {
			if err = r.hold(ctx, e, n); err == nil {
				e.readOnly = readOnly
				return r.start(ctx, e)
			}
		}
		if err != nil {
			e.part()
			return nil, err
		}
	}
}

// join registers the connection, so that it is cut like the others if the right is
// withdrawn meanwhile, and returns those that have to be Done before it may start.
func (r *Registry) join(ctx context.Context, o *object, n name, c *nbd.Conn) (readOnly bool, blockers []*nbd.Conn, err error) {
	if err := o.enter(ctx); err != nil {
		return false, nil, err
	}
	defer o.leave()
	p, pubs, err := r.entitled(ctx, n)
	if err != nil {
		return false, nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	a := o.attached[n.epoch]
	if a == nil {
		a = &attached{node: p.Node, conns: make(map[*nbd.Conn]uint64)}
		o.attached[n.epoch] = a
	}
	if n.generation < a.newest {
		return false, nil, nbd.Refuse(nbd.Policy, "generation %d is older than generation %d, which is attached", n.generation, a.newest)
	}
	a.newest = n.generation
	a.conns[c] = n.generation
	o.expire(pubs)
	return !writable(p), o.blockers(n.epoch, n.generation), nil
}

// expire marks what is attached without a publication as withdrawn: the store may
// have retired an epoch by itself. Registry.mu is held.
func (o *object) expire(pubs []store.Publication) {
	for epoch, a := range o.attached {
		if !slices.ContainsFunc(pubs, func(p store.Publication) bool { return p.Epoch == epoch }) {
			a.withdrawn = true
		}
	}
}

// blockers are the connections that a new one must not overlap: those whose right
// was withdrawn and older generations of the same publication. Registry.mu is held.
func (o *object) blockers(epoch, generation uint64) []*nbd.Conn {
	var list []*nbd.Conn
	for e, a := range o.attached {
		for c, g := range a.conns {
			if a.withdrawn || e == epoch && g < generation {
				list = append(list, c)
			}
		}
	}
	return list
}

// cutAndWait ends connections and returns when no request of theirs can reach the
// device any more.
func cutAndWait(ctx context.Context, conns []*nbd.Conn) error {
	for _, c := range conns {
		c.Cut()
	}
	for _, c := range conns {
		select {
		case <-c.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// openPlain admits a connection that names an image or a snapshot.
func (r *Registry) openPlain(ctx context.Context, n name, c *nbd.Conn) (nbd.Export, error) {
	info, err := r.find(ctx, n, c)
	if err != nil {
		return nil, err
	}
	e := &export{r: r, o: r.object(info.ID), conn: c}
	e.readOnly = n.readOnly || info.Kind == store.KindSnapshot
	if !e.readOnly {
		e.readOnly, err = r.claim(ctx, e.o, info, c)
		if err != nil {
			e.part()
			return nil, err
		}
		e.unmarked.Store(!e.readOnly)
	}
	return r.start(ctx, e)
}

// claim makes the connection part of the session that writes to the image, when
// there is no other or that ends in time.
func (r *Registry) claim(ctx context.Context, o *object, info store.Info, c *nbd.Conn) (readOnly bool, err error) {
	patience := time.NewTimer(r.cfg.Patience)
	defer patience.Stop()
	for {
		readOnly, holder, withdrawn, err := r.tryClaim(ctx, o, info, c)
		switch {
		case err != nil:
			return false, err
		case len(withdrawn) > 0:
			if err := cutAndWait(ctx, withdrawn); err != nil {
				return false, err
			}
		case holder == nil:
			return readOnly, nil
		}
		if holder == nil {
			continue
		}
		select {
		case <-holder.Done():
		case <-ctx.Done():
			return false, ctx.Err()
		case <-patience.C:
			return false, nbd.Refuse(nbd.Policy, "image %q is in use by %s; %s%s gives read access", info.Ref(), peerOf(holder), readOnlyPrefix, info.Ref())
		}
	}
}

// tryClaim returns a connection of the session in the way, if there is one, or
// connections whose right was withdrawn and which have to be awaited.
func (r *Registry) tryClaim(ctx context.Context, o *object, info store.Info, c *nbd.Conn) (readOnly bool, holder *nbd.Conn, withdrawn []*nbd.Conn, err error) {
	if err := o.enter(ctx); err != nil {
		return false, nil, nil, err
	}
	defer o.leave()
	pubs, err := r.src.Publications(ctx, info.ID)
	if err != nil {
		return false, nil, nil, refused(info.Ref(), err)
	}
	for _, p := range pubs {
		if p.Access.Writes() {
			return false, nil, nil, nbd.Refuse(nbd.Policy, "image %q is published to node %s; %s%s gives read access", info.Ref(), p.Node, readOnlyPrefix, info.Ref())
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	o.expire(pubs)
	if withdrawn = o.blockers(0, 0); len(withdrawn) > 0 {
		return false, nil, withdrawn, nil
	}
	if len(pubs) > 0 {
		return true, nil, nil, nil
	}
	peer := peerOf(c)
	for other := range o.plain {
		if o.peer != peer {
			return false, other, nil, nil
		}
	}
	o.peer = peer
	o.plain[c] = struct{}{}
	return false, nil, nil, nil
}

// peerOf names the client of a session: its process, or its host.
func peerOf(c *nbd.Conn) string {
	if _, ok := c.PeerPID(); ok {
		return c.String()
	}
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		return c.String()
	}
	return "host " + host
}

// start opens the device of an admitted connection.
func (r *Registry) start(ctx context.Context, e *export) (nbd.Export, error) {
	e.cut = ctx.Done()
	dev, err := e.o.dev.open(ctx)
	if err == nil {
		if err = r.loadLimits(ctx, e.o); err != nil {
			err = errors.Join(err, e.o.dev.close())
		}
	}
	if err != nil {
		e.part()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, refused("image or snapshot "+string(e.o.id), err)
	}
	e.dev = dev
	info := dev.Info()
	e.info = describe(info, e.readOnly)
	e.o.traffic.begin(info.Ref())
	return e, nil
}

// loadLimits takes over what the store says. The gate keeps Modify away meanwhile.
func (r *Registry) loadLimits(ctx context.Context, o *object) error {
	if err := o.enter(ctx); err != nil {
		return err
	}
	defer o.leave()
	info, err := r.src.Stat(ctx, o.id)
	if err == nil {
		o.limit.set(info.Limits)
	}
	return err
}
