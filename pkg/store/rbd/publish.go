//go:build ceph

package rbd

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// Publish gives node the right to id.
func (s *Store) Publish(ctx context.Context, id store.ID, node string, access store.Access) (store.Publication, error) {
	err := store.ValidateAccess(access)
	switch {
	case node == "" || len(node) > store.MaxName:
		err = fmt.Errorf("node name of %d bytes, want 1 to %d: %w", len(node), store.MaxName, store.ErrInvalid)
	case err == nil:
		err = s.begin(ctx)
	}
	if err != nil {
		return store.Publication{}, fmt.Errorf("publish %q: %w", id, err)
	}
	defer s.end()
	p, err := s.publish(ctx, store.Publication{ID: id, Node: node, Access: access})
	if err != nil {
		return store.Publication{}, fmt.Errorf("publish %q to %q: %w", id, node, err)
	}
	return p, nil
}

func (s *Store) publish(ctx context.Context, want store.Publication) (store.Publication, error) {
	unlock, err := s.keys.lock(ctx, "publish/"+string(want.ID))
	if err != nil {
		return want, err
	}
	defer unlock()
	var got store.Publication
	var there bool
	err = s.update(ctx, func(t *meta.Tx) (err error) {
		if got, there, err = admit(t.State, want); err != nil || there || want.Access == store.AccessScratch {
			return err
		}
		got = s.grant(t, want, want.ID)
		return nil
	})
	if err != nil || there || want.Access != store.AccessScratch {
		return got, err
	}
	for {
		got, err = s.publishHead(ctx, want)
		if !errors.Is(err, errAgain) {
			return got, err
		}
	}
}

// admit returns the publication that is there already, and refuses one that must not
// be beside others.
func admit(st *meta.State, want store.Publication) (p store.Publication, there bool, err error) {
	obj, err := st.Find(want.ID, "")
	if err != nil {
		return p, false, err
	}
	if obj.Snap != nil && want.Access.Writes() {
		return p, false, fmt.Errorf("snapshot %q for writing: %w", obj.Ref(), store.ErrReadOnly)
	}
	for _, p := range st.PubsOf(want.ID) {
		switch {
		case p.Node == want.Node && p.Access == want.Access:
			return p, true, nil
		case p.Node == want.Node || !p.Access.Beside(want.Access):
			return p, false, fmt.Errorf("%s is published to %q: %w", obj.Ref(), p.Node, store.ErrInUse)
		}
	}
	return p, false, nil
}

// grant writes a publication, with the next epoch and a new token.
func (s *Store) grant(t *meta.Tx, p store.Publication, target store.ID) store.Publication {
	if i, ok := t.Images[p.ID]; ok {
		i.Epoch++
		p.Epoch = i.Epoch
		t.PutImage(i)
	} else {
		n := t.Snaps[p.ID]
		n.Epoch++
		p.Epoch = n.Epoch
		t.PutSnapshot(n)
	}
	var token [16]byte
	rand.Read(token[:]) // never fails, see crypto/rand
	p.Target, p.Token = target, hex.EncodeToString(token[:])
	t.PutPublication(p)
	return p
}

// publishHead makes the private head of a publication, and the publication with it.
func (s *Store) publishHead(ctx context.Context, want store.Publication) (store.Publication, error) {
	c := &creation{s: s, spec: store.Spec{Parent: want.ID}, head: &want, id: string(store.NewID())}
	defer s.working(c.id)()
	if err := s.cat.View(ctx, c.look); err != nil {
		return want, err
	}
	if c.parent.Snap == nil {
		snap, err := s.freeze(ctx, want.ID)
		if err != nil {
			return want, err
		}
		c.via = &snap
	} else {
		c.via = c.parent.Snap
	}
	if err := s.update(ctx, c.reserve); err != nil {
		return want, errors.Join(err, s.unfreeze(c))
	}
	failpoint.Hit("rbd.publish.reserved")
	if err := s.build(c.row, c.base, c.via); err != nil {
		return want, errors.Join(err, s.takeBack(c.intent))
	}
	failpoint.Hit("rbd.publish.built")
	var got store.Publication
	if err := s.update(ctx, func(t *meta.Tx) error {
		i, ok := t.Images[c.row.ID]
		if _, mine := t.Intents[c.intent.ID]; !mine || !ok {
			return fmt.Errorf("another gateway has taken over: %w", store.ErrFenced)
		}
		if p, there, err := admit(t.State, want); err != nil || there {
			return cmp.Or(err, error(fmt.Errorf("%s has it by now: %w", p.Node, store.ErrBusy)))
		}
		i.Phase = meta.Live
		t.PutImage(i)
		t.DropIntent(c.intent.ID)
		got = s.grant(t, want, i.ID)
		return nil
	}); err != nil {
		return want, errors.Join(err, s.takeBack(c.intent))
	}
	failpoint.Hit("rbd.publish.done")
	return got, nil
}

// Unpublish withdraws the right of node, or of all if node is "". Devices of a private
// head that goes with it have ended when it returns.
func (s *Store) Unpublish(ctx context.Context, id store.ID, node string) error {
	if err := s.begin(ctx); err != nil {
		return fmt.Errorf("unpublish %q: %w", id, err)
	}
	defer s.end()
	var heads []store.ID
	err := s.update(ctx, func(t *meta.Tx) error {
		heads = nil
		if _, err := t.Find(id, ""); err != nil {
			return err
		}
		for _, p := range t.PubsOf(id) {
			if node != "" && p.Node != node {
				continue
			}
			t.DropPublication(p)
			if head, ok := t.Images[p.Target]; ok && head.Head() {
				head.Phase = meta.Removed
				t.PutImage(head)
				s.queueCollect(t, head.ID)
				heads = append(heads, head.ID)
			}
		}
		return nil
	})
	failpoint.Hit("rbd.unpublish.done")
	for _, head := range heads {
		err = errors.Join(err, s.fence(head))
	}
	if err != nil {
		return fmt.Errorf("unpublish %q: %w", id, err)
	}
	return nil
}

// Publications lists those of id, or all, by object and node.
func (s *Store) Publications(ctx context.Context, id store.ID) (list []store.Publication, err error) {
	err = s.view(ctx, func(st *meta.State) error {
		if id != "" {
			if _, err := st.Any(id); err != nil {
				return err
			}
		}
		for _, p := range st.Pubs {
			if id == "" || p.ID == id || p.Target == id {
				list = append(list, p)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("publications of %q: %w", id, err)
	}
	slices.SortFunc(list, func(a, b store.Publication) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Node, b.Node))
	})
	return list, nil
}
