package layered

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/layer"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// Check implements store.Inspector: the catalogue's invariants, every layer's files
// against their rows, and files that nothing refers to.
func (st *Store) Check(ctx context.Context, deep bool) ([]store.Problem, error) {
	if err := st.alive(); err != nil {
		return nil, err
	}
	var found []store.Problem
	var rows []meta.Layer
	pending := map[meta.LayerID]bool{} // files that a queued job will remove
	err := st.cat.View(func(tx *meta.Tx) error {
		found = tx.Verify()
		jobs, err := (jobLog{st.cat}).in(tx)
		if err != nil {
			return err
		}
		for _, j := range jobs {
			if id, err := layerTarget(j); err == nil && j.Kind == store.JobDelete {
				pending[id] = true
			}
		}
		rows, err = allLayers(tx)
		return err
	})
	if err != nil {
		return found, fmt.Errorf("check: %w", err)
	}
	known := map[meta.LayerID]bool{}
	for _, row := range rows {
		known[row.ID] = true
		found = append(found, st.checkLayer(ctx, row, deep)...)
		if err := ctx.Err(); err != nil {
			return found, err
		}
	}
	return append(found, st.checkFiles(known, pending)...), nil
}

func allLayers(tx *meta.Tx) (rows []meta.Layer, err error) {
	err = tx.WalkImages(func(img meta.Image) error {
		ids, err := tx.LayersOf(img.ID)
		for _, id := range ids {
			l, err := tx.Layer(id)
			if err != nil {
				return err
			}
			rows = append(rows, l)
		}
		return err
	})
	return rows, err
}

// checkLayer compares a layer's files with its row; deep reads all data, and compares
// that of a sealed layer with the checksums there are. A layer that vanished between
// the listing and now is no problem; a job has dissolved it.
func (st *Store) checkLayer(ctx context.Context, row meta.Layer, deep bool) (found []store.Problem) {
	ref := st.layers.acquire(row.ID)
	defer st.layers.release(ref)
	name := fmt.Sprintf("layer %d of image %s", row.ID, row.Image)
	add := func(format string, args ...any) {
		found = append(found, store.Problem{Object: name, Text: fmt.Sprintf(format, args...)})
	}
	lay, err := ref.get()
	if err != nil {
		if _, gone := st.layerRow(row.ID); errors.Is(gone, store.ErrNotFound) {
			return nil
		}
		add("%v", err)
		return found
	}
	read := false
	if deep && row.Sealed {
		r := &reading{st: st, row: row, report: func(text string, harmless bool) {
			found = append(found, store.Problem{Object: name, Text: text, Harmless: harmless})
		}}
		read = r.all(ctx) == nil // else it is being changed, and read as it is
	}
	for _, err := range lay.Verify(deep && !read) {
		add("%v", st.noticeDamage(row.ID, err))
	}
	data, _ := lay.Blocks()
	settled, err := st.settledRow(row)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil // dissolved while it was looked at
	case err != nil || !settled || st.layers.isBusy(row.ID):
		return found // it is changing; the next check sees it settled
	}
	if row.Sealed && data < row.Data {
		add("%d data blocks, the catalogue has %d", data, row.Data)
	}
	return found
}

// settledRow tells whether a row is still as given and no merge has begun that may
// have moved a part of the layer, in one look.
func (st *Store) settledRow(row meta.Layer) (settled bool, err error) {
	err = st.cat.View(func(tx *meta.Tx) error {
		now, err := tx.Layer(row.ID)
		if err != nil || now != row || row.Merging != 0 {
			return err
		}
		settled = true
		if row.Parent == 0 {
			return nil
		}
		below, err := tx.Layer(row.Parent)
		settled = below.Merging != row.ID
		return err
	})
	return settled, err
}

func (g *registry) isBusy(id meta.LayerID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.busy[id]
}

// checkFiles looks for files in the layers directory that nothing refers to.
func (st *Store) checkFiles(known, pending map[meta.LayerID]bool) (found []store.Problem) {
	names, err := st.env.FS.List(st.env.Dir)
	if err != nil {
		return []store.Problem{{Object: st.env.Dir, Text: err.Error()}}
	}
	for _, name := range names {
		n, ok := layer.ParseName(asMap(name))
		id := meta.LayerID(n)
		if name == probeFile || ok && (known[id] || pending[id] || st.ids.pending(id)) {
			continue
		}
		if _, err := st.layerRow(id); ok && err == nil {
			continue // made after the listing
		}
		found = append(found, store.Problem{Object: st.env.Dir + "/" + name, Text: "no layer of the catalogue has this file", Harmless: true})
	}
	return found
}

// asMap turns the name of a file beside a layer's map into that of the map.
func asMap(name string) string {
	for _, suffix := range []string{indexSuffix, ".sums", ".sums.new"} {
		if base, ok := strings.CutSuffix(name, suffix); ok {
			return base + ".map"
		}
	}
	return name
}

func (a *layerIDs) pending(id meta.LayerID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.inFlight[id]
}

// Status implements store.Inspector.
func (st *Store) Status(context.Context) (store.Status, error) {
	s := store.Status{UUID: st.cat.UUID(), Backend: "layered", Copied: st.copied.Load(), Jobs: st.jobs.List()}
	if err := st.alive(); err != nil {
		return s, err
	}
	err := st.cat.View(func(tx *meta.Tx) (err error) {
		s.Images, s.Snapshots, s.Layers, err = tx.Counts()
		return err
	})
	if err != nil {
		return s, err
	}
	if s.Total, s.Free, err = st.opts.FS.Space(st.opts.LayersDir); err != nil {
		return s, err
	}
	if s.Faulty, err = st.refused(); err != nil {
		return s, err
	}
	found, err := st.scrubFindings()
	s.Faulty = append(s.Faulty, found...)
	return s, err
}
