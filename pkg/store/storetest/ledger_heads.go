package storetest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/strata-csi/strata/pkg/store"
)

// kindHead is the kind of the account of a private head. Its ref is the node it is
// published to, its image the ref of what was published.
const kindHead store.Kind = "private head"

// publish gives a new node a private head.
func (l *ledger) publish() error {
	from := l.pick("")
	if from == nil {
		return nil
	}
	node := l.fresh("n")
	p, err := l.s.Publish(l.ctx, from.id, node, store.AccessScratch)
	failed, err := l.answer("publish "+from.ref+" to "+node, err)
	if err != nil {
		return err
	}
	a := &account{ref: node, kind: kindHead, image: from.ref}
	return l.made(a, store.Info{ID: p.Target}, failed, slices.Clone(from.alts[0].now))
}

// unpublish takes a private head away, half of the time from under an open device.
func (l *ledger) unpublish() error {
	a := l.pick(kindHead)
	if a == nil {
		return nil
	}
	if l.rng.IntN(2) == 0 {
		if err := l.closeDevice(a); err != nil {
			return err
		}
	}
	failed, err := l.answer("unpublish "+a.image+" from "+a.ref, l.s.Unpublish(l.ctx, l.byRef[a.image].id, a.ref))
	if err == nil {
		err = l.closeDevice(a)
	}
	if err != nil {
		return err
	}
	if !failed {
		delete(l.byRef, a.ref)
		return l.gone(a)
	}
	return l.changed(a, failed, state{gone: true})
}

// gone requires that a private head cannot be opened any more.
func (l *ledger) gone(a *account) error {
	if _, err := l.s.Open(l.ctx, a.id); !errors.Is(err, store.ErrNotFound) && !l.hit() {
		return fmt.Errorf("%w: the private head of node %s can be opened after it was withdrawn: %v", errWrong, a.ref, err)
	}
	return nil
}

// published tells whether an object has private heads, or may have some.
func (l *ledger) published(a *account) bool {
	return slices.ContainsFunc(l.all(), func(h *account) bool { return h.kind == kindHead && h.image == a.ref })
}

// find describes the object of an account.
func (l *ledger) find(a *account) (store.Info, error) {
	switch {
	case a.kind == kindHead:
		return l.findHead(a)
	case a.id != "": // a removed image's snapshot may be hidden by a new name
		return l.s.Stat(l.ctx, a.id)
	}
	return l.s.Lookup(l.ctx, a.ref)
}

// findHead follows the publication, which is all that a node knows.
func (l *ledger) findHead(a *account) (store.Info, error) {
	source := l.byRef[a.image]
	if source.id == "" {
		info, err := l.find(source)
		if err != nil {
			return info, err
		}
		source.id = info.ID
	}
	pubs, err := l.s.Publications(l.ctx, source.id)
	if err != nil {
		return store.Info{}, err
	}
	for _, p := range pubs {
		if p.Node != a.ref {
			continue
		}
		if a.id != "" && p.Target != a.id {
			return store.Info{}, fmt.Errorf("%w: node %s is given %s now, it was given %s", errWrong, a.ref, p.Target, a.id)
		}
		return l.s.Stat(l.ctx, p.Target)
	}
	return store.Info{}, fmt.Errorf("publication to %s: %w", a.ref, store.ErrNotFound)
}
