package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

const (
	// step is by how much a flatten must have come further to be told of, in percent.
	step = 10
	// mostSnapshots is how many snapshots of an image that is gone are told.
	mostSnapshots = 8
)

// track is a job that is followed, or was until its store was lost.
type track struct {
	following bool
	last      store.Job
	told      Reason
	percent   int
	at        time.Time // of the last notice of progress
}

// lost are jobs of a store that are neither listed nor followed.
func (w *Watcher) lost(uuid string, listed map[string]bool) []store.Job {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []store.Job
	for key, t := range w.jobs {
		if !t.following && !listed[key] && key == uuid+" "+t.last.ID {
			all = append(all, t.last)
		}
	}
	return all
}

// follow starts to follow a job, unless that is done already.
func (w *Watcher) follow(s Source, j store.Job) {
	key := s.UUID + " " + j.ID
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.jobs) >= mostJobs {
		// Those of stores that went away may never end.
		maps.DeleteFunc(w.jobs, func(_ string, t *track) bool { return !t.following })
	}
	t := w.jobs[key]
	if w.ended || t != nil && (t.following || t.last.State == store.JobFailed && j.State == store.JobFailed) || t == nil && len(w.jobs) >= mostJobs {
		return
	}
	if t == nil {
		t = &track{percent: -1}
		w.jobs[key] = t
	}
	t.following, t.last = true, j
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		over := w.watch(s, t, j)
		w.mu.Lock()
		defer w.mu.Unlock()
		t.following = false
		if over {
			delete(w.jobs, key)
		}
	}()
}

// watch tells of a job until it ends, and whether it has. t is its own meanwhile.
func (w *Watcher) watch(s Source, t *track, j store.Job) (over bool) {
	about, err := w.subjects(s, store.ID(j.Target))
	if err != nil {
		return false
	}
	last := j
	err = s.Store.WatchJob(w.ctx, j.ID, func(j store.Job) error {
		last = j
		w.tell(about, t, j)
		return nil
	})
	w.mu.Lock()
	t.last = last
	w.mu.Unlock()
	switch {
	case w.ctx.Err() != nil:
		return false
	case last.State == store.JobDone:
		return true
	case last.State == store.JobFailed:
		return false // it is listed until somebody resumes or cancels it
	case errors.Is(err, store.ErrNotFound):
		w.vanished(s, about, last)
		return true
	}
	return false
}

// vanished tells of a job that a store does not know any more: it was cancelled, or done
// before the store was started anew.
func (w *Watcher) vanished(s Source, about []Subject, j store.Job) {
	ctx, cancel := context.WithTimeout(w.ctx, askTime)
	defer cancel()
	info, err := s.Store.Stat(ctx, store.ID(j.Target))
	switch {
	case err != nil: // gone with its image, or nobody can say
	case info.Parent == "":
		w.notices(about, FlattenDone, j, textDone(j))
	default:
		w.notices(about, FlattenCancelled, j, "The flatten was cancelled; what it has copied stays valid.")
	}
}

// subjects are what users know of an image: itself, or, if it was deleted, the snapshots
// of it that they have kept.
func (w *Watcher) subjects(s Source, image store.ID) ([]Subject, error) {
	ctx, cancel := context.WithTimeout(w.ctx, askTime)
	defer cancel()
	info, err := s.Store.Stat(ctx, image)
	if err == nil {
		return []Subject{{Name: info.Name, UUID: string(info.ID)}}, nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	var all []Subject
	err = s.Store.Walk(ctx, func(i store.Info) error {
		if i.Kind == store.KindSnapshot && i.Image == image && len(all) < mostSnapshots {
			all = append(all, Subject{Snapshot: true, Name: i.Name, UUID: string(i.ID)})
		}
		return nil
	})
	return all, err
}

// tell makes notices of what is new about a job.
func (w *Watcher) tell(about []Subject, t *track, j store.Job) {
	reason, text := FlattenQueued, "Queued: the volume's data will be made its own."
	switch {
	case j.State == store.JobRunning:
		reason, text = FlattenStarted, fmt.Sprintf("Started: %s to look through.", bytes(j.Total))
	case j.State == store.JobPaused:
		reason, text = FlattenPaused, fmt.Sprintf("Paused at %d %%; strata jobs resume goes on with it.", percent(j))
	case j.State == store.JobDone:
		reason, text = FlattenDone, textDone(j)
	case j.State == store.JobFailed:
		reason, text = FlattenFailed, "Failed, and the volume stays as it was: "+j.Error
	case j.Error != "":
		reason, text = FlattenWaiting, "Waiting; it is tried again: "+j.Error
	}
	if reason != t.told {
		t.told = reason
		w.notices(about, reason, j, text)
	}
	// A start is a notice of progress too, so that short flattens have no other.
	now := time.Now()
	switch p := percent(j) / step * step; {
	case j.State != store.JobRunning:
	case t.percent < 0:
		t.percent, t.at = p, now
	case p > t.percent && now.Sub(t.at) >= w.opts.Progress:
		t.percent, t.at = p, now
		w.progress(about, j, p)
	}
}

func (w *Watcher) progress(about []Subject, j store.Job, p int) {
	for _, s := range about {
		w.opts.Tell(Notice{
			About: s, Reason: FlattenProgress, Key: fmt.Sprintf("%s %d", j.ID, p),
			Text: fmt.Sprintf("%d %%: %s of %s looked through, %s copied.", percent(j), bytes(j.Done), bytes(j.Total), bytes(j.Copied)),
		})
	}
}

func (w *Watcher) notices(about []Subject, reason Reason, j store.Job, text string) {
	for _, s := range about {
		w.opts.Tell(Notice{About: s, Reason: reason, Key: j.ID, Text: text})
	}
}

func textDone(j store.Job) string {
	return fmt.Sprintf("Done: the volume depends on no other any more; %s were copied.", bytes(j.Copied))
}

// percent is how far a job is.
func percent(j store.Job) int {
	if j.Total <= 0 {
		return 0
	}
	return int(min(100, float64(j.Done)*100/float64(j.Total)))
}

// bytes writes a number of bytes for people.
func bytes(n int64) string {
	unit, f := 0, float64(n)
	for f >= 1024 && unit < 4 {
		unit, f = unit+1, f/1024
	}
	if unit == 0 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGT"[unit-1])
}
