package memstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/strata-csi/strata/pkg/store"
)

// Publish gives node the right to id.
func (s *Store) Publish(ctx context.Context, id store.ID, node string, access store.Access) (store.Publication, error) {
	none := store.Publication{}
	if node == "" {
		return none, fmt.Errorf("publish %q: no node is named: %w", id, store.ErrInvalid)
	}
	if err := store.ValidateAccess(access); err != nil {
		return none, fmt.Errorf("publish %q: %w", id, err)
	}
	d, err := s.enter(ctx)
	if err != nil {
		return none, fmt.Errorf("publish %q: %w", id, err)
	}
	defer d.mu.Unlock()
	o, err := d.find(id, "")
	if err != nil {
		return none, fmt.Errorf("publish: %w", err)
	}
	if o.info.Kind == store.KindSnapshot && access.Writes() {
		return none, fmt.Errorf("publish snapshot %q for writing: %w", o.describe().Ref(), store.ErrReadOnly)
	}
	if p, ok := o.pubs[node]; ok && p.Access == access {
		return p, nil
	}
	for _, p := range o.pubs {
		if p.Node == node || !p.Access.Beside(access) {
			return none, fmt.Errorf("publish %q to %q: published to %q: %w", o.describe().Ref(), node, p.Node, store.ErrInUse)
		}
	}
	o.epoch++
	var token [16]byte
	rand.Read(token[:]) // never fails, see crypto/rand
	p := store.Publication{ID: id, Node: node, Access: access, Target: id, Epoch: o.epoch, Token: hex.EncodeToString(token[:])}
	o.pubs[node] = p
	return p, nil
}

// Unpublish withdraws the right of node, or of all if node is "".
func (s *Store) Unpublish(ctx context.Context, id store.ID, node string) error {
	d, err := s.enter(ctx)
	if err != nil {
		return fmt.Errorf("unpublish %q: %w", id, err)
	}
	defer d.mu.Unlock()
	o, err := d.find(id, "")
	if err != nil {
		return fmt.Errorf("unpublish: %w", err)
	}
	if node == "" {
		clear(o.pubs)
	}
	delete(o.pubs, node)
	return nil
}

// Publications lists those of id, or all, by object and node.
func (s *Store) Publications(ctx context.Context, id store.ID) ([]store.Publication, error) {
	d, err := s.enter(ctx)
	if err != nil {
		return nil, fmt.Errorf("publications of %q: %w", id, err)
	}
	defer d.mu.Unlock()
	if id != "" {
		if _, err := d.find(id, ""); err != nil {
			return nil, fmt.Errorf("publications: %w", err)
		}
	}
	var list []store.Publication
	for _, o := range d.objects {
		for _, p := range o.pubs {
			if id == "" || p.ID == id {
				list = append(list, p)
			}
		}
	}
	slices.SortFunc(list, func(a, b store.Publication) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Node, b.Node))
	})
	return list, nil
}
