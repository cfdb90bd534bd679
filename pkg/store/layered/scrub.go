package layered

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/strata-csi/strata/pkg/jobs"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

const (
	// scrubMark is the key of the mark that says how far a scrub is and what it found.
	scrubMark = "scrub"
	// scrubSave is how often that is written, at most.
	scrubSave = 5 * time.Second
	// findingsMost bounds the findings that are kept.
	findingsMost = 100
)

// scrubState survives restarts. Within a layer a scrub goes on behind the checksums that
// it has written.
type scrubState struct {
	// Job is the scrub that runs or ran last.
	Job          string
	Began, Ended time.Time
	// Next is the first layer that it has not read, At the one it has begun to read.
	Next, At meta.LayerID
	// Done is bytes of data in the layers before Next.
	Done  int64
	Found []finding
	// Skipped counts layers that were being changed.
	Skipped int
}

// finding is what a scrub found wrong with a layer, 0 for the catalogue.
type finding struct {
	Layer meta.LayerID
	store.Problem
}

// scrubber keeps the state of the store's one scrub.
type scrubber struct {
	mu    sync.Mutex
	state scrubState
}

func (s *scrubber) get() scrubState {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.state
	now.Found = slices.Clone(now.Found)
	return now
}

func (s *scrubber) change(fn func(*scrubState)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn(&s.state)
}

// add keeps a finding, if it is new.
func (s *scrubber) add(f finding) {
	s.change(func(now *scrubState) {
		if len(now.Found) < findingsMost && !slices.Contains(now.Found, f) {
			now.Found = append(now.Found, f)
		}
	})
}

// forget drops what was found of a layer.
func (s *scrubber) forget(id meta.LayerID) {
	s.change(func(now *scrubState) {
		now.Found = slices.DeleteFunc(now.Found, func(f finding) bool { return f.Layer == id })
	})
}

func (st *Store) loadScrub() error {
	return st.cat.View(func(tx *meta.Tx) error {
		raw, err := tx.Mark(scrubMark)
		if err != nil || raw == nil {
			return err
		}
		var state scrubState
		if json.Unmarshal(raw, &state) == nil { // else it is of another version, and a hint only
			st.scrubs.change(func(now *scrubState) { *now = state })
		}
		return nil
	})
}

func (st *Store) saveScrub() error {
	raw, err := json.Marshal(st.scrubs.get())
	if err != nil {
		return err
	}
	return st.cat.Update(func(tx *meta.Tx) error { return tx.PutMark(scrubMark, raw) })
}

// StartScrub implements store.Scrubber.
func (st *Store) StartScrub(context.Context) (store.Job, error) {
	if err := st.alive(); err != nil {
		return store.Job{}, err
	}
	var total int64
	err := st.cat.View(func(tx *meta.Tx) error {
		rows, err := allLayers(tx)
		for _, row := range rows {
			total += row.Data * blockSize
		}
		return err
	})
	if err != nil {
		return store.Job{}, fmt.Errorf("scrub: %w", err)
	}
	return st.jobs.Add(jobs.New(store.JobScrub, st.UUID(), total))
}

// runScrub is the job: the catalogue, the maps of all layers, the data of sealed ones.
func (st *Store) runScrub(ctx context.Context, t *jobs.Task) error {
	job := t.Job()
	st.scrubs.change(func(now *scrubState) {
		if now.Job != job.ID || !now.Ended.IsZero() {
			*now = scrubState{Job: job.ID, Began: time.Now().UTC(), Found: now.Found}
		}
	})
	rows, err := st.scrubRows()
	if err != nil {
		return err
	}
	s := &scrub{st: st, t: t, total: job.Total, done: st.scrubs.get().Done, saved: time.Now()}
	for _, row := range rows {
		if err := s.layer(ctx, row); err != nil {
			return errors.Join(err, st.saveScrub())
		}
	}
	return s.end(rows)
}

// scrubRows lists the layers that are left to do, in the order of ids, and checks the
// catalogue on the way.
func (st *Store) scrubRows() (rows []meta.Layer, err error) {
	var problems []store.Problem
	err = st.cat.View(func(tx *meta.Tx) (err error) {
		problems = tx.Verify()
		rows, err = allLayers(tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("scrub: %w", err)
	}
	st.scrubs.forget(0)
	for _, p := range problems {
		st.scrubs.add(finding{Problem: p})
	}
	slices.SortFunc(rows, func(a, b meta.Layer) int { return int(a.ID) - int(b.ID) })
	return rows, nil
}

// scrub is one run of the job.
type scrub struct {
	st          *Store
	t           *jobs.Task
	total, done int64
	saved       time.Time
}

func (s *scrub) layer(ctx context.Context, row meta.Layer) error {
	if row.ID < s.st.scrubs.get().Next {
		return nil
	}
	if s.st.scrubs.get().At != row.ID {
		s.st.scrubs.forget(row.ID)
		s.st.scrubs.change(func(now *scrubState) { now.At = row.ID })
	}
	err := s.st.scrubLayer(ctx, row, func(ctx context.Context, bytes int) error {
		s.done += int64(bytes)
		s.total = max(s.total, s.done)
		s.t.Progress(s.done, s.total, 0)
		return s.t.Pace(ctx, bytes)
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	s.st.scrubs.change(func(now *scrubState) {
		now.Next, now.Done = row.ID+1, s.done
		if err != nil {
			now.Skipped++
		}
	})
	if now := time.Now(); now.Sub(s.saved) >= scrubSave {
		s.saved = now
		return s.st.saveScrub()
	}
	return nil
}

// end tells the result. A scrub that found damage has failed.
func (s *scrub) end(rows []meta.Layer) error {
	s.st.scrubs.change(func(now *scrubState) {
		now.Ended = time.Now().UTC()
		now.Found = slices.DeleteFunc(now.Found, func(f finding) bool {
			return f.Layer != 0 && !slices.ContainsFunc(rows, func(r meta.Layer) bool { return r.ID == f.Layer })
		})
	})
	if err := s.st.saveScrub(); err != nil {
		return fmt.Errorf("note what the scrub found: %w", err)
	}
	now := s.st.scrubs.get()
	var bad []store.Problem
	for _, f := range now.Found {
		if !f.Harmless {
			bad = append(bad, f.Problem)
		}
	}
	if now.Skipped > 0 {
		s.st.opts.OnEvent(Event{Object: "scrub", Text: fmt.Sprintf("%d layers were being changed all the time and are left to the next one", now.Skipped)})
	}
	if len(bad) == 0 {
		return nil
	}
	return fmt.Errorf("the scrub found %d problems, the first in %s: %s: %w", len(bad), bad[0].Object, bad[0].Text, store.ErrCorrupt)
}

// scrubLayer checks one layer's files and, of a sealed one, reads all data.
// errChanging, or ctx's error.
func (st *Store) scrubLayer(ctx context.Context, row meta.Layer, pace func(context.Context, int) error) error {
	row, err := st.layerRow(row.ID) // it may be long since it was listed
	if err != nil {
		return nil //nolint:nilerr // it is gone
	}
	name := st.layerName(row)
	report := func(text string, harmless bool) {
		st.scrubs.add(finding{Layer: row.ID, Problem: store.Problem{Object: name, Text: text, Harmless: harmless}})
		if !harmless {
			st.opts.OnEvent(Event{Object: name, Text: "scrub: " + text, Err: st.saveScrub()})
		}
	}
	for _, p := range st.checkLayer(ctx, row, false) {
		report(p.Text, p.Harmless)
	}
	if !row.Sealed {
		return pace(ctx, 0)
	}
	r := &reading{st: st, row: row, report: report, pace: pace, renew: true}
	err = r.all(ctx)
	if err == nil || ctx.Err() != nil || errors.Is(err, errChanging) {
		return err
	}
	report(fmt.Sprintf("its checksums were not written: %v", err), true)
	r = &reading{st: st, row: row, report: report, pace: pace}
	return r.all(ctx)
}

// layerName names a layer by its image.
func (st *Store) layerName(row meta.Layer) string {
	name := string(row.Image)
	_ = st.cat.View(func(tx *meta.Tx) error { // the id will do
		img, err := tx.Image(row.Image)
		if err == nil && img.Name != "" {
			name = fmt.Sprintf("%q", img.Name)
		}
		return err
	})
	return fmt.Sprintf("layer %d of image %s", row.ID, name)
}

// scrubFindings lists what scrubs found in layers that are still there.
func (st *Store) scrubFindings() (list []store.Problem, err error) {
	found := st.scrubs.get().Found
	if len(found) == 0 {
		return nil, nil
	}
	err = st.cat.View(func(tx *meta.Tx) error {
		list = nil
		for _, f := range found {
			if _, err := tx.Layer(f.Layer); f.Layer == 0 || err == nil {
				list = append(list, f.Problem)
			}
		}
		return nil
	})
	return list, err
}
