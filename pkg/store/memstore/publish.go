package memstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// Publish gives node the right to id.
func (s *Store) Publish(ctx context.Context, id store.ID, node string, access store.Access) (store.Publication, error) {
	none := store.Publication{}
	if node == "" || len(node) > store.MaxName {
		return none, fmt.Errorf("publish %q: node name of %d bytes, want 1 to %d: %w", id, len(node), store.MaxName, store.ErrInvalid)
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
	for _, n := range slices.Sorted(maps.Keys(o.pubs)) {
		if p := o.pubs[n]; p.Node == node || !p.Access.Beside(access) {
			return none, fmt.Errorf("publish %q to %q: published to %q: %w", o.describe().Ref(), node, p.Node, store.ErrInUse)
		}
	}
	o.epoch++
	var token [16]byte
	rand.Read(token[:]) // never fails, see crypto/rand
	p := store.Publication{ID: id, Node: node, Access: access, Target: id, Epoch: o.epoch, Token: hex.EncodeToString(token[:])}
	if access == store.AccessScratch {
		p.Target = d.scratch(o, node)
	}
	o.pubs[node] = p
	return p, nil
}

// scratch makes the private head of a publication of o.
func (d *disk) scratch(o *object, node string) store.ID {
	name := o.describe().Ref()
	fam := &family{id: store.NewID(), name: name, snaps: make(map[string]*object)}
	head := &object{fam: fam, source: o, info: store.Info{
		ID: fam.id, Kind: store.KindImage, Name: name, BlockSize: o.info.BlockSize, Policy: o.info.Policy,
		Format: o.info.Format, Node: node, Created: time.Now(),
	}}
	head.descend(o)
	fam.image, fam.root = head, head.part
	d.heads[fam.id] = head
	return fam.id
}

// withdraw ends one publication of o, and the private head it may have.
func (d *disk) withdraw(o *object, node string) {
	p := o.pubs[node]
	delete(o.pubs, node)
	if head := d.heads[p.Target]; head != nil {
		head.removed = true
		head.fam.image = nil
		delete(d.heads, p.Target)
	}
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
	for n := range o.pubs {
		if node == "" || node == n {
			d.withdraw(o, n)
		}
	}
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
		if _, err := d.any(id); err != nil {
			return nil, fmt.Errorf("publications: %w", err)
		}
	}
	var list []store.Publication
	for _, o := range d.objects {
		for _, p := range o.pubs {
			if id == "" || p.ID == id || p.Target == id {
				list = append(list, p)
			}
		}
	}
	slices.SortFunc(list, func(a, b store.Publication) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Node, b.Node))
	})
	return list, nil
}
