package layered

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// Publish implements store.Publisher.
func (st *Store) Publish(ctx context.Context, id store.ID, node string, access store.Access) (store.Publication, error) {
	none := store.Publication{}
	if err := st.alive(); err != nil {
		return none, err
	}
	if node == "" || len(node) > store.MaxName {
		return none, fmt.Errorf("publish %s: node name of %d bytes, want 1 to %d: %w", id, len(node), store.MaxName, store.ErrInvalid)
	}
	if err := store.ValidateAccess(access); err != nil {
		return none, fmt.Errorf("publish %s: %w", id, err)
	}
	unlock, err := st.hold(ctx, id)
	if err != nil {
		return none, err
	}
	defer unlock()
	if access.Writes() {
		if err := st.settleHead(id); err != nil {
			return none, fmt.Errorf("publish to node %q: %w", node, err)
		}
	}
	want := store.Publication{ID: id, Node: node, Access: access, Target: id}
	var pub store.Publication
	if access == store.AccessScratch {
		pub, err = st.publishScratch(want)
	} else {
		err = st.cat.Update(func(tx *meta.Tx) (err error) {
			var info store.Info
			pub, info, err = st.published(tx, want)
			if err == nil && pub.Epoch == 0 {
				pub, err = newPublication(tx, info, want)
			}
			return err
		})
	}
	if err != nil {
		return none, fmt.Errorf("publish to node %q: %w", node, err)
	}
	failpoint.Hit("layered.publish")
	return pub, nil
}

// published returns the publication that answers the wish already, one with epoch 0 if
// it may be made, and what it is of. It refuses a wish that what is there forbids.
func (st *Store) published(tx *meta.Tx, want store.Publication) (store.Publication, store.Info, error) {
	none := store.Publication{}
	info, err := st.infoOf(tx, want.ID)
	if err != nil {
		return none, info, err
	}
	if info.Kind == store.KindSnapshot && want.Access.Writes() {
		return none, info, fmt.Errorf("snapshot %s for writing: %w", info.Ref(), store.ErrReadOnly)
	}
	old, err := tx.Publications(want.ID)
	if err != nil {
		return none, info, err
	}
	for _, p := range old {
		switch {
		case p.Node == want.Node && p.Access == want.Access:
			return p.Publication, info, nil
		case p.Node == want.Node:
			return none, info, fmt.Errorf("%s is published to node %q with access %q: %w", info.Ref(), p.Node, p.Access, store.ErrInUse)
		case !p.Access.Beside(want.Access):
			return none, info, fmt.Errorf("%s is published to node %q: %w", info.Ref(), p.Node, store.ErrInUse)
		}
	}
	return none, info, nil
}

// newPublication takes the next epoch of the owning image, so that it rises for the
// image and each of its snapshots alike, and draws the secret token.
func newPublication(tx *meta.Tx, info store.Info, want store.Publication) (store.Publication, error) {
	img, err := tx.Image(info.Image)
	if err != nil {
		return store.Publication{}, err
	}
	img.Epoch++
	var token [16]byte
	rand.Read(token[:]) // never fails, see crypto/rand
	want.Epoch, want.Token = img.Epoch, hex.EncodeToString(token[:])
	return want, errors.Join(tx.PutImage(img), tx.PutPublication(meta.Publication{Publication: want}))
}

// Unpublish implements store.Publisher. Live connections are the business of
// pkg/export, which cuts them before it answers.
func (st *Store) Unpublish(ctx context.Context, id store.ID, node string) error {
	if err := st.alive(); err != nil {
		return err
	}
	unlock, err := st.hold(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	var pubs []meta.Publication
	err = st.cat.View(func(tx *meta.Tx) error {
		if _, err := st.infoOf(tx, id); err != nil {
			return err
		}
		all, err := tx.Publications(id)
		for _, p := range all {
			if node == "" || p.Node == node {
				pubs = append(pubs, p)
			}
		}
		return err
	})
	if err == nil && len(pubs) > 0 {
		err = st.withdraw(ctx, pubs)
	}
	if err != nil {
		return fmt.Errorf("unpublish: %w", err)
	}
	failpoint.Hit("layered.unpublish")
	return nil
}

// Publications implements store.Publisher.
func (st *Store) Publications(_ context.Context, id store.ID) (list []store.Publication, err error) {
	if err := st.alive(); err != nil {
		return nil, err
	}
	err = st.cat.View(func(tx *meta.Tx) error {
		rows, err := publicationsOf(tx, id)
		for _, p := range rows {
			list = append(list, p.Publication)
		}
		return err
	})
	return list, err
}

// publicationsOf lists the publications of an object, of all if id is "", or the one
// whose private head id is.
func publicationsOf(tx *meta.Tx, id store.ID) ([]meta.Publication, error) {
	if id == "" {
		return tx.Publications("")
	}
	img, err := tx.Image(id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if !img.Scratch {
		return tx.Publications(id)
	}
	all, err := tx.Publications(img.Origin)
	for _, p := range all {
		if p.Target == id {
			return []meta.Publication{p}, nil
		}
	}
	return nil, err
}
