package layered

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/strata-csi/strata/pkg/jobs"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/layer"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// jobIndex is the background job that writes merged indexes of one image.
const jobIndex store.JobKind = "index"

const (
	// indexSlack is how many of an image's newest layers stay without an index:
	// they are the ones most often merged away.
	indexSlack = 32
	// indexLeast is the shortest run of layers worth an index.
	indexLeast = 32
)

// wantIndex queues an index job once enough layers of the chain lack one. It looks
// at a bounded part of the chain, so a snapshot stays O(1).
func (im *image) wantIndex() {
	v := im.view
	v.shards[0].mu.Lock()
	bare := 0
	for _, l := range v.chain {
		if l.group != nil || bare > indexSlack+indexSpan {
			break
		}
		bare++
	}
	v.shards[0].mu.Unlock()
	if bare <= indexSlack+indexSpan {
		return
	}
	if _, err := im.st.jobs.Add(jobs.New(jobIndex, string(im.id), 0)); err != nil {
		im.st.opts.OnEvent(Event{v.name, "its index could not be queued", err})
	}
}

// runIndex writes an index for every long enough run of layers that has none.
func (st *Store) runIndex(ctx context.Context, t *jobs.Task) error {
	for {
		rows, err := st.bareRun(store.ID(t.Job().Target))
		if errors.Is(err, store.ErrNotFound) || err == nil && len(rows) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		if err := st.indexRun(ctx, rows); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// bareRun finds up to indexSpan consecutive own layers without an index, below the
// newest ones; the lowest first, so that runs stay dense.
func (st *Store) bareRun(id store.ID) (best []meta.Layer, err error) {
	err = st.cat.View(func(tx *meta.Tx) error {
		img, err := tx.Image(id)
		if err != nil || img.Head == 0 {
			return err
		}
		var run []meta.Layer
		take := func() {
			if len(run) >= indexLeast {
				best = run[max(0, len(run)-indexSpan):]
			}
			run = nil
		}
		next := img.Head
		for i := 0; next != 0; i++ {
			l, err := tx.Layer(next)
			if err != nil {
				return err
			}
			if l.Image != id {
				break
			}
			switch {
			case i <= indexSlack || !l.Sealed:
			case l.Index != 0 || l.Merging != 0:
				take()
			default:
				run = append(run, l)
			}
			next = l.Parent
		}
		take()
		return nil
	})
	return best, err
}

func (st *Store) indexRun(ctx context.Context, rows []meta.Layer) error {
	ids := make([]meta.LayerID, len(rows))
	for i, r := range rows {
		ids[i] = r.ID
	}
	if err := st.layers.claim(ctx, ids...); err != nil {
		return err
	}
	defer st.layers.unclaim(ids...)
	layers := make([]*layer.Layer, len(rows))
	for i, id := range ids {
		ref := st.layers.acquire(id)
		defer st.layers.release(ref)
		var err error
		if layers[i], err = ref.get(); err != nil {
			return err
		}
	}
	if err := writeIndex(st.env, rows, layers); err != nil {
		return err
	}
	err := st.cat.Update(func(tx *meta.Tx) error {
		for _, r := range rows {
			now, err := tx.Layer(r.ID)
			if err != nil {
				return err
			}
			if now != r {
				return fmt.Errorf("layer %d changed while it was indexed: %w", r.ID, store.ErrBusy)
			}
			now.Index = ids[0]
			if err := tx.PutLayer(now); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil { // nobody refers to the file, and its layers may be gone
		return errors.Join(err, st.removeIndex(ids[0]))
	}
	st.rebuildViews(ids[0])
	return nil
}

// dropIndex forgets the index that covers a layer which is about to change, within
// the transaction that says so. It returns the layer as it is now.
func dropIndex(tx *meta.Tx, l meta.Layer) (meta.Layer, error) {
	top := l.Index
	if top == 0 {
		return l, nil
	}
	for id := top; id != 0; {
		m, err := tx.Layer(id)
		if errors.Is(err, store.ErrNotFound) && id == top {
			break // the top was removed: nobody uses the rest
		}
		if err != nil {
			return l, err
		}
		if m.Index != top {
			break
		}
		m.Index = 0
		if err := tx.PutLayer(m); err != nil {
			return l, err
		}
		id = m.Parent
	}
	l.Index = 0
	return l, tx.PutLayer(l)
}

// unsettle prepares two layers for a merge: their checksums are forgotten, no index
// covers them any more, also in no view, and the count of the one that gives its blocks away no longer holds, even
// if the merge is given up half-way; nor that of the other if a part of it is cleared
// first.
func (st *Store) unsettle(from, to meta.LayerID, clears bool) error {
	var changed []meta.LayerID
	err := st.cat.Update(func(tx *meta.Tx) error {
		changed = nil
		for _, id := range []meta.LayerID{from, to} {
			l, err := tx.Layer(id)
			if err != nil {
				return err
			}
			if l.Index != 0 {
				changed = append(changed, id)
				if l, err = dropIndex(tx, l); err != nil {
					return err
				}
			}
			if (id == from || clears) && l.Data != 0 {
				l.Data = 0
				if err := tx.PutLayer(l); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil && len(changed) > 0 {
		st.rebuildViews(changed...)
	}
	if err == nil {
		err = st.sums.forget(from, to)
	}
	return err
}

// groupAt opens the index whose top is rows[0], if there is a whole one; its layers
// are the first n rows.
func (st *Store) groupAt(rows []chainRow) (x *mergedIndex, n int) {
	for n < len(rows) && rows[0].index == rows[0].id && rows[n].index == rows[0].id {
		n++
	}
	if n < 2 {
		return nil, 0
	}
	ids := make([]meta.LayerID, n)
	for i := range ids {
		ids[i] = rows[i].id
	}
	x, err := openIndex(st.env, ids)
	if err != nil {
		st.opts.OnEvent(Event{fmt.Sprintf("layer %d", rows[0].id), "its index cannot be used; reads go to the layers", err})
		return nil, 0
	}
	return x, n
}

// removeIndex unlinks the index of a layer that is gone.
func (st *Store) removeIndex(top meta.LayerID) error {
	err := st.env.FS.Remove(indexPath(st.env, top))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
