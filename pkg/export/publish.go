package export

import (
	"context"
	"fmt"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
)

// Publish gives a node the right to an image or snapshot, as the store's Publish
// does. While a plain session writes to the image it is ErrInUse.
func (r *Registry) Publish(ctx context.Context, id store.ID, node string, access store.Access) (store.Publication, error) {
	o := r.object(id)
	defer r.release(o)
	if err := o.enter(ctx); err != nil {
		return store.Publication{}, fmt.Errorf("publish %s: %w", id, err)
	}
	defer o.leave()
	r.mu.Lock()
	busy, peer := len(o.plain) > 0, o.peer
	r.mu.Unlock()
	if busy {
		return store.Publication{}, fmt.Errorf("publish %s to %s: %s has it open for writing: %w", id, node, peer, store.ErrInUse)
	}
	return r.src.Publish(ctx, id, node, access)
}

// Unpublish withdraws the right of a node, or of all nodes if node is "", cuts the
// node's connections and waits until no request of theirs can reach the device. If
// the context ends before that, the right is withdrawn all the same, and repeating
// the call waits again.
func (r *Registry) Unpublish(ctx context.Context, id store.ID, node string) error {
	o := r.object(id)
	defer r.release(o)
	conns, err := r.withdraw(ctx, o, node)
	if err != nil {
		return err
	}
	if err := cutAndWait(ctx, conns); err != nil {
		return fmt.Errorf("unpublish %s from %q: wait for requests in flight: %w", id, node, err)
	}
	return nil
}

// withdraw returns the connections that have lost their right: those to the object,
// and those to the private heads of its publications.
func (r *Registry) withdraw(ctx context.Context, o *object, node string) ([]*nbd.Conn, error) {
	if err := o.enter(ctx); err != nil {
		return nil, fmt.Errorf("unpublish %s: %w", o.id, err)
	}
	defer o.leave()
	if err := r.src.Unpublish(ctx, o.id, node); err != nil {
		return nil, err
	}
	conns := r.strip(o, node)
	heads := r.headsOf(o.id)
	defer func() {
		for _, head := range heads {
			r.release(head)
		}
	}()
	for _, head := range heads {
		// Who was found entitled before is registered after this, nobody later.
		if err := head.enter(ctx); err != nil {
			return nil, fmt.Errorf("unpublish %s: %w", o.id, err)
		}
		conns = append(conns, r.strip(head, node)...)
		head.leave()
	}
	return conns, nil
}

// headsOf lists the private heads of an object that are in use; release each.
func (r *Registry) headsOf(source store.ID) (list []*object) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.objects {
		if o.source == source {
			o.users++
			list = append(list, o)
		}
	}
	return list
}

// strip marks what a node has attached, or all if node is "", as withdrawn and returns
// its connections.
func (r *Registry) strip(o *object, node string) (conns []*nbd.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range o.attached {
		if node == "" || a.node == node {
			a.withdrawn = true
			for c := range a.conns {
				conns = append(conns, c)
			}
		}
	}
	return conns
}

// Modify changes what an image is allowed, as the store's Modify does; limits hold at
// once, also for requests that wait.
func (r *Registry) Modify(ctx context.Context, image store.ID, c store.Change) (store.Info, error) {
	o := r.object(image)
	defer r.release(o)
	if err := o.enter(ctx); err != nil {
		return store.Info{}, fmt.Errorf("modify %s: %w", image, err)
	}
	defer o.leave()
	info, err := r.src.Modify(ctx, image, c)
	if err == nil {
		o.limit.set(info.Limits)
	}
	return info, err
}

// Publications lists those of id, or all if id is "", and tells which have connections.
func (r *Registry) Publications(ctx context.Context, id store.ID) ([]store.Publication, error) {
	pubs, err := r.src.Publications(ctx, id)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, p := range pubs {
		if o := r.objects[p.Target]; o != nil && o.attached[p.Epoch] != nil {
			pubs[i].Connected = len(o.attached[p.Epoch].conns) > 0
		}
	}
	return pubs, nil
}
