package layered

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// Publish implements store.Publisher.
func (st *Store) Publish(ctx context.Context, id store.ID, node string, access store.Access) (store.Publication, error) {
	var pub store.Publication
	if err := st.alive(); err != nil {
		return pub, err
	}
	if node == "" || len(node) > store.MaxName {
		return pub, fmt.Errorf("publish %s: node name of %d bytes, want 1 to %d: %w", id, len(node), store.MaxName, store.ErrInvalid)
	}
	if err := store.ValidateAccess(access); err != nil {
		return pub, fmt.Errorf("publish %s: %w", id, err)
	}
	unlock, err := st.lock(ctx, id)
	if err != nil {
		return pub, err
	}
	defer unlock()
	if access.Writes() {
		if err := st.settleHead(id); err != nil {
			return pub, fmt.Errorf("publish to node %q: %w", node, err)
		}
	}
	err = st.cat.Update(func(tx *meta.Tx) error {
		info, err := st.infoOf(tx, id)
		if err != nil {
			return err
		}
		if info.Kind == store.KindSnapshot && access.Writes() {
			return fmt.Errorf("snapshot %s for writing: %w", info.Ref(), store.ErrReadOnly)
		}
		old, err := tx.Publications(id)
		if err != nil {
			return err
		}
		for _, p := range old {
			switch {
			case p.Node == node && p.Access == access:
				pub = p.Publication
				return nil
			case p.Node == node:
				return fmt.Errorf("%s is published to node %q with other rights: %w", info.Ref(), node, store.ErrInUse)
			case !p.Access.Beside(access):
				return fmt.Errorf("%s is published to node %q: %w", info.Ref(), p.Node, store.ErrInUse)
			}
		}
		pub, err = newPublication(tx, info, node, access)
		return err
	})
	if err != nil {
		return store.Publication{}, fmt.Errorf("publish to node %q: %w", node, err)
	}
	return pub, nil
}

// newPublication takes the next epoch of the owning image, so that it rises for the
// image and each of its snapshots alike, and draws the secret token.
func newPublication(tx *meta.Tx, info store.Info, node string, access store.Access) (store.Publication, error) {
	img, err := tx.Image(info.Image)
	if err != nil {
		return store.Publication{}, err
	}
	img.Epoch++
	var token [16]byte
	rand.Read(token[:]) // never fails, see crypto/rand
	pub := store.Publication{ID: info.ID, Node: node, Access: access, Target: info.ID, Epoch: img.Epoch, Token: hex.EncodeToString(token[:])}
	return pub, errors.Join(tx.PutImage(img), tx.PutPublication(meta.Publication{Publication: pub}))
}

// Unpublish implements store.Publisher. Live connections are the business of
// pkg/export, which cuts them before it answers.
func (st *Store) Unpublish(ctx context.Context, id store.ID, node string) error {
	if err := st.alive(); err != nil {
		return err
	}
	unlock, err := st.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	return st.cat.Update(func(tx *meta.Tx) error {
		pubs, err := tx.Publications(id)
		if err != nil {
			return err
		}
		for _, p := range pubs {
			if node == "" || p.Node == node {
				if err := tx.DeletePublication(id, p.Node); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Publications implements store.Publisher.
func (st *Store) Publications(_ context.Context, id store.ID) (list []store.Publication, err error) {
	if err := st.alive(); err != nil {
		return nil, err
	}
	err = st.cat.View(func(tx *meta.Tx) error {
		rows, err := tx.Publications(id)
		for _, p := range rows {
			list = append(list, p.Publication)
		}
		return err
	})
	return list, err
}
