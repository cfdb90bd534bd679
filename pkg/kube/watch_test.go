package kube

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// script is a store whose jobs do what the test says.
type script struct {
	*testing.T
	mu     sync.Mutex
	images map[store.ID]store.Info
	jobs   map[string]store.Job
	// changed is closed and replaced at every change.
	changed chan struct{}
	down    bool
}

func newScript(t *testing.T) *script {
	return &script{T: t, images: map[store.ID]store.Info{}, jobs: map[string]store.Job{}, changed: make(chan struct{})}
}

func (s *script) do(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *script) image(name string, depth int) store.Info {
	info := store.Info{ID: store.NewID(), Kind: store.KindImage, Name: name, Depth: depth, Policy: store.Policy{Soft: 8}}
	if depth > 0 {
		info.Parent = store.NewID()
	}
	s.do(func() { s.images[info.ID] = info })
	return info
}

func (s *script) job(j store.Job) {
	j.Kind = store.JobFlatten
	s.do(func() { s.jobs[j.ID] = j })
}

func (s *script) Jobs(context.Context) (all []store.Job, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, store.ErrUnavailable
	}
	for _, j := range s.jobs {
		if j.State != store.JobDone {
			all = append(all, j)
		}
	}
	return append(all, store.Job{ID: "m", Kind: store.JobMerge, Target: "7", State: store.JobRunning}), nil
}

func (s *script) WatchJob(ctx context.Context, id string, fn func(store.Job) error) error {
	for last := (store.Job{}); ; {
		s.mu.Lock()
		j, ok := s.jobs[id]
		changed, down := s.changed, s.down
		s.mu.Unlock()
		switch {
		case down:
			return store.ErrUnavailable
		case !ok:
			return store.ErrNotFound
		case j != last:
			if err := fn(j); err != nil {
				return err
			}
			last = j
		}
		switch j.State {
		case store.JobDone:
			return nil
		case store.JobFailed:
			return fmt.Errorf("failed: %w", store.ErrCorrupt)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *script) Stat(_ context.Context, id store.ID) (store.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if info, ok := s.images[id]; ok && !s.down {
		return info, nil
	} else if s.down {
		return store.Info{}, store.ErrUnavailable
	}
	return store.Info{}, store.ErrNotFound
}

func (s *script) Lookup(_ context.Context, ref string) (store.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, info := range s.images {
		if info.Ref() == ref {
			return info, nil
		}
	}
	return store.Info{}, store.ErrNotFound
}

func (s *script) Walk(_ context.Context, fn func(store.Info) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, info := range s.images {
		if err := fn(info); err != nil {
			return err
		}
	}
	return nil
}

// watched is a watcher and what it has told.
type watched struct {
	*testing.T
	*Watcher
	told chan Notice
}

func watch(t *testing.T, o WatchOptions, stores ...*script) *watched {
	w := &watched{T: t, told: make(chan Notice, 1000)}
	o.Tell = func(n Notice) { w.told <- n }
	if o.Sources == nil {
		o.Sources = func(context.Context) (all []Source) {
			for i, s := range stores {
				all = append(all, Source{UUID: fmt.Sprint("store ", i), Store: s})
			}
			return all
		}
	}
	if o.Every == 0 {
		o.Every = 5 * time.Millisecond
	}
	w.Watcher = Watch(o)
	t.Cleanup(func() { w.Close() })
	return w
}

// want takes the next notices and compares their reasons and subjects.
func (w *watched) want(about string, reasons ...Reason) (last Notice) {
	w.Helper()
	for _, reason := range reasons {
		select {
		case last = <-w.told:
		case <-time.After(30 * time.Second):
			w.Fatalf("no notice, want %s", reason)
		}
		if last.Reason != reason || last.About.Name != about {
			w.Fatalf("told %+v, want %s of %s", last, reason, about)
		}
	}
	return last
}

func (w *watched) nothing() {
	w.Helper()
	w.Close()
	for len(w.told) > 0 {
		w.Errorf("told %+v", <-w.told)
	}
}

func TestFlattenIsTold(t *testing.T) {
	s := newScript(t)
	img := s.image("pvc-1", 9)
	w := watch(t, WatchOptions{Progress: time.Nanosecond}, s)
	j := store.Job{ID: "1", Target: string(img.ID), State: store.JobQueued, Total: 100 << 20}
	s.job(j)
	if n := w.want("pvc-1", FlattenQueued); n.About.UUID != string(img.ID) || n.About.Snapshot || n.Key != "1" {
		t.Errorf("%+v", n)
	}
	j.State = store.JobRunning
	s.job(j)
	w.want("pvc-1", FlattenStarted)
	j.Done, j.Copied = 34<<20, 5<<20
	s.job(j)
	if n := w.want("pvc-1", FlattenProgress); n.Text != "34 %: 34.0 MiB of 100.0 MiB looked through, 5.0 MiB copied." || n.Key != "1 30" {
		t.Errorf("%+v", n)
	}
	j.Done = 39 << 20 // less than a step
	s.job(j)
	j.State, j.Error = store.JobQueued, "no space left in the store"
	s.job(j)
	if n := w.want("pvc-1", FlattenWaiting); n.Text != "Waiting; it is tried again: no space left in the store" {
		t.Errorf("%+v", n)
	}
	j.State, j.Error = store.JobPaused, ""
	s.job(j)
	w.want("pvc-1", FlattenPaused)
	j.State = store.JobDone
	s.job(j)
	w.want("pvc-1", FlattenDone)
	w.nothing()
}

// Progress is told at intervals only.
func TestProgressIsPaced(t *testing.T) {
	s := newScript(t)
	img := s.image("pvc-1", 9)
	w := watch(t, WatchOptions{Progress: time.Hour}, s)
	for done := range int64(101) {
		s.job(store.Job{ID: "1", Target: string(img.ID), State: store.JobRunning, Done: done, Total: 100})
	}
	s.job(store.Job{ID: "1", Target: string(img.ID), State: store.JobRunning, Done: 100, Total: 100})
	w.want("pvc-1", FlattenStarted)
	s.job(store.Job{ID: "1", Target: string(img.ID), State: store.JobFailed, Error: "damaged"})
	if n := w.want("pvc-1", FlattenFailed); n.Text != "Failed, and the volume stays as it was: damaged" {
		t.Errorf("%+v", n)
	}
	// A failed job stays listed; resumed, it is followed again.
	s.job(store.Job{ID: "1", Target: string(img.ID), State: store.JobRunning})
	w.want("pvc-1", FlattenStarted)
	w.nothing()
}

// The last news of a job come even if the store was away, or has forgotten it.
func TestJobEndsUnseen(t *testing.T) {
	for _, c := range []struct {
		end  string
		want []Reason
	}{
		{"done", []Reason{FlattenDone}}, {"forgotten", []Reason{FlattenDone}}, {"cancelled", []Reason{FlattenCancelled}}, {"removed", nil},
	} {
		t.Run(c.end, func(t *testing.T) {
			s := newScript(t)
			img := s.image("pvc-1", 9)
			j := store.Job{ID: "1", Target: string(img.ID), State: store.JobRunning}
			w := watch(t, WatchOptions{}, s)
			s.job(j)
			w.want("pvc-1", FlattenStarted)
			s.do(func() { s.down = true })
			s.do(func() {
				switch flat := img; c.end {
				case "done":
					j.State, j.Kind = store.JobDone, store.JobFlatten
					s.jobs["1"] = j
				case "forgotten":
					flat.Parent = ""
					s.images[img.ID] = flat
					delete(s.jobs, "1")
				case "cancelled":
					delete(s.jobs, "1")
				case "removed":
					delete(s.images, img.ID)
					delete(s.jobs, "1")
				}
			})
			s.do(func() { s.down = false })
			w.want("pvc-1", c.want...)
			// Another job shows that the watcher has gone on.
			s.job(store.Job{ID: "2", Target: string(s.image("pvc-2", 1).ID), State: store.JobQueued})
			w.want("pvc-2", FlattenQueued)
			w.nothing()
		})
	}
}

// A deleted image that is flattened for its snapshots' sake is told on those.
func TestFlattenOfDeletedImage(t *testing.T) {
	s := newScript(t)
	gone := store.NewID()
	snap := store.Info{ID: store.NewID(), Kind: store.KindSnapshot, Name: "snapshot-1", Image: gone, ImageName: "pvc-1"}
	s.do(func() { s.images[snap.ID] = snap })
	s.image("pvc-2", 0)
	w := watch(t, WatchOptions{}, s)
	s.job(store.Job{ID: "1", Target: string(gone), State: store.JobQueued})
	if n := w.want("snapshot-1", FlattenQueued); !n.About.Snapshot || n.About.UUID != string(snap.ID) {
		t.Errorf("%+v", n)
	}
	w.nothing()
}

// A deep clone is told at once, and again when it is within its limit, however quick the
// flatten was.
func TestDeepCloneIsTold(t *testing.T) {
	s := newScript(t)
	img, lost := s.image("pvc-1", 9), s.image("pvc-2", 10)
	w := watch(t, WatchOptions{Every: time.Hour}, s)
	w.Deepened(Deep{Store: "store 0", Image: img.ID, Name: "pvc-1", Depth: 9, Soft: 8})
	w.want("pvc-1", CloneDeep)
	w.Deepened(Deep{Store: "store 0", Image: lost.ID, Name: "pvc-2", Depth: 10, Soft: 8})
	w.want("pvc-2", CloneDeep)
	img.Depth = 4
	s.do(func() {
		s.images[img.ID] = img
		delete(s.images, lost.ID)
	})
	w.Look()
	if n := w.want("pvc-1", CloneDepthLowered); n.Text != "The clone depth is 4 now, down from 9." {
		t.Errorf("%+v", n)
	}
	w.nothing()
}

func TestFaultyVolumeIsToldOnce(t *testing.T) {
	s := newScript(t)
	img := s.image("pvc-1", 0)
	var mu sync.Mutex
	faulty := []store.Problem{{Object: "layer 7", Text: "lost"}}
	looks := make(chan struct{}, 1000)
	w := watch(t, WatchOptions{Sources: func(context.Context) []Source {
		mu.Lock()
		defer mu.Unlock()
		looks <- struct{}{}
		return []Source{{UUID: "a", Store: s, Faulty: slices.Clone(faulty)}}
	}})
	<-looks
	mu.Lock()
	faulty = append(faulty, store.Problem{Object: "pvc-1", Text: "block 5 does not have its checksum"})
	mu.Unlock()
	if n := w.want("pvc-1", VolumeFaulty); n.About.UUID != string(img.ID) || n.Text != "block 5 does not have its checksum" {
		t.Errorf("%+v", n)
	}
	for range 3 {
		<-looks
	}
	w.nothing()
}

// Many jobs at once are followed in turns, and the end does not wait for them.
func TestManyJobs(t *testing.T) {
	s := newScript(t)
	const n = 3 * mostJobs
	img := s.image("pvc-1", 1)
	s.do(func() {
		for i := range n {
			id := fmt.Sprintf("%04d", i)
			s.jobs[id] = store.Job{ID: id, Kind: store.JobFlatten, Target: string(img.ID), State: store.JobQueued}
		}
	})
	w := watch(t, WatchOptions{}, s)
	for range mostJobs {
		w.want("pvc-1", FlattenQueued)
	}
	w.mu.Lock()
	if len(w.jobs) != mostJobs {
		t.Errorf("%d jobs are followed", len(w.jobs))
	}
	w.mu.Unlock()
	s.do(func() {
		for id, j := range s.jobs {
			j.State = store.JobDone
			s.jobs[id] = j
		}
	})
	for range mostJobs {
		w.want("pvc-1", FlattenDone)
	}
	w.Close()
	for len(w.told) > 0 { // of others that were seen just before they ended
		w.want("pvc-1", FlattenDone)
	}
}
