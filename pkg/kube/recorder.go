package kube

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Options of a Recorder; zero values have defaults.
type Options struct {
	// Driver is the name of the CSI driver; volumes of others are left alone.
	Driver string
	// Host is the node this process runs on, for the events' source.
	Host string
	// Queue is how many notices may wait; 256 if 0.
	Queue int
	// Age is after how long a notice that could not be delivered is given up; 10 min
	// if 0. An object that does not exist is looked for during a fifth of that.
	Age time.Duration
	// Retry is the first interval between attempts while the API does not answer; it
	// doubles up to a minute. 1 s if 0.
	Retry time.Duration
	// Failed is told of notices that are given up, and once per outage that the API does
	// not answer. It must not block. Optional.
	Failed func(error)
}

const (
	maxRetry = time.Minute
	// maxText is the longest text that the API takes, with a margin.
	maxText = 1000
	// remembered is how many delivered notices are known, so that they are not sent again.
	remembered = 4096
)

// Stats count notices since the start.
type Stats struct {
	// Delivered became events, or were events already. Dropped never will be: the queue
	// was full, or they were given up. Unclaimed were about volumes that the cluster does
	// not know.
	Delivered, Dropped, Unclaimed uint64
	// Waiting are in the queue.
	Waiting int
}

// Recorder makes events of notices. Safe for concurrent use.
type Recorder struct {
	cluster *Cluster
	opts    Options
	finder  finder
	ctx     context.Context
	stop    context.CancelFunc
	wake    chan struct{} // capacity 1
	wg      sync.WaitGroup

	mu      sync.Mutex
	waiting []*item
	known   map[string]bool // names of events that wait or were delivered
	stats   Stats

	// Of the worker alone.
	retry  time.Duration // 0 while the API answers
	before time.Time     // nothing is tried earlier
}

// item is a notice that waits.
type item struct {
	Notice
	id   string
	next time.Time
}

// NewRecorder starts a recorder. Close must be called.
func NewRecorder(c *Cluster, o Options) *Recorder {
	if o.Queue == 0 {
		o.Queue = 256
	}
	if o.Age == 0 {
		o.Age = 10 * time.Minute
	}
	if o.Retry == 0 {
		o.Retry = time.Second
	}
	if o.Failed == nil {
		o.Failed = func(error) {}
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &Recorder{
		cluster: c, opts: o, finder: finder{cluster: c, driver: o.Driver, now: time.Now},
		ctx: ctx, stop: stop, wake: make(chan struct{}, 1), known: make(map[string]bool),
	}
	r.wg.Add(1)
	go r.run()
	return r
}

// Close ends the recorder; what waits is dropped.
func (r *Recorder) Close() error {
	r.stop()
	r.wg.Wait()
	return nil
}

// Stats returns the counts as of now.
func (r *Recorder) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats
	s.Waiting = len(r.waiting)
	return s
}

// Tell makes an event of n, later. It never waits and never fails; a notice that was told
// before is nothing new.
func (r *Recorder) Tell(n Notice) {
	if n.At.IsZero() {
		n.At = time.Now()
	}
	it := &item{Notice: n, id: n.id()}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known[it.id] {
		return
	}
	if len(r.waiting) >= r.opts.Queue || r.ctx.Err() != nil {
		r.stats.Dropped++
		return
	}
	if len(r.known) >= remembered+r.opts.Queue {
		r.forget()
	}
	r.known[it.id] = true
	r.waiting = append(r.waiting, it)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// forget leaves only those that wait: an event that exists is found out when it is sent
// again. r.mu is held.
func (r *Recorder) forget() {
	clear(r.known)
	for _, it := range r.waiting {
		r.known[it.id] = true
	}
}

// id is the same for the same notice in every process.
func (n Notice) id() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{string(n.Reason), n.About.UUID, n.About.Handle, n.About.Node, n.Key}, "\x00")))
	return hex.EncodeToString(sum[:8])
}

func (r *Recorder) run() {
	defer r.wg.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-r.ctx.Done():
			r.dropAll()
			return
		case <-r.wake:
		case <-timer.C:
		}
		for r.ctx.Err() == nil {
			it := r.due(time.Now())
			if it == nil {
				break
			}
			r.try(it)
		}
		timer.Reset(r.wait(time.Now()))
	}
}

// due is the oldest notice whose time has come.
func (r *Recorder) due(now time.Time) *item {
	if now.Before(r.before) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, it := range r.waiting {
		if !now.Before(it.next) {
			return it
		}
	}
	return nil
}

// wait is how long until one will be due.
func (r *Recorder) wait(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := now.Add(time.Hour)
	for _, it := range r.waiting {
		if it.next.Before(next) {
			next = it.next
		}
	}
	if next.Before(r.before) {
		next = r.before
	}
	return max(0, next.Sub(now))
}

// try delivers a notice, or sees to it that it is tried again or given up.
func (r *Recorder) try(it *item) {
	ctx, cancel := context.WithTimeout(r.ctx, callTime)
	defer cancel()
	err := r.deliver(ctx, it)
	now := time.Now()
	old := now.Sub(it.At)
	switch {
	case err == nil:
		r.retry = 0
		r.done(it, &r.stats.Delivered)
	case r.ctx.Err() != nil: // closing
	case errors.Is(err, errNone):
		r.retry = 0
		if old >= r.opts.Age/5 {
			r.done(it, &r.stats.Unclaimed)
			return
		}
		r.later(it, now.Add(max(r.opts.Retry, old)))
	case refused(err):
		r.retry = 0
		r.done(it, &r.stats.Dropped)
		r.opts.Failed(fmt.Errorf("event %s: %w", it.Reason, err))
	default:
		if r.retry == 0 {
			r.retry = r.opts.Retry
			r.opts.Failed(fmt.Errorf("event %s: the cluster's API does not answer; trying again: %w", it.Reason, err))
		} else {
			r.retry = min(2*r.retry, maxRetry)
		}
		r.before = now.Add(r.retry)
		r.giveUp(now)
	}
}

// refused tells whether the API has answered that it will never take it.
func refused(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err)
}

// later lets a notice wait.
func (r *Recorder) later(it *item, next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	it.next = next
}

// done takes a notice out of the queue and counts it.
func (r *Recorder) done(it *item, count *uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = slices.DeleteFunc(r.waiting, func(w *item) bool { return w == it })
	*count++
	if count != &r.stats.Delivered {
		delete(r.known, it.id)
	}
}

// giveUp drops what is too old to be news.
func (r *Recorder) giveUp(now time.Time) {
	r.mu.Lock()
	before := len(r.waiting)
	r.waiting = slices.DeleteFunc(r.waiting, func(w *item) bool {
		old := now.Sub(w.At) >= r.opts.Age
		if old {
			delete(r.known, w.id)
		}
		return old
	})
	lost := before - len(r.waiting)
	r.stats.Dropped += uint64(lost)
	r.mu.Unlock()
	if lost > 0 {
		r.opts.Failed(fmt.Errorf("%d events were given up: the cluster's API has not answered for %v", lost, r.opts.Age))
	}
}

func (r *Recorder) dropAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Dropped += uint64(len(r.waiting))
	r.waiting = nil
}

// deliver makes the event; one that exists is this one.
func (r *Recorder) deliver(ctx context.Context, it *item) error {
	// The provisioner makes the volume's object a moment after the volume: that is no
	// reason for a list.
	ref, err := r.finder.find(ctx, it.About, time.Since(it.At) > 4*r.opts.Retry)
	if err != nil {
		return err
	}
	kind, text := corev1.EventTypeNormal, it.Text
	if it.Reason.warns() {
		kind = corev1.EventTypeWarning
	}
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	namespace := cmp.Or(ref.Namespace, metav1.NamespaceDefault)
	at := metav1.NewTime(it.At)
	err = r.cluster.tell(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: eventName(ref.Name, it.id)},
		InvolvedObject: ref, Reason: string(it.Reason), Message: text, Type: kind,
		Source:         corev1.EventSource{Component: r.opts.Driver, Host: r.opts.Host},
		FirstTimestamp: at, LastTimestamp: at, Count: 1,
		ReportingController: r.opts.Driver, ReportingInstance: r.opts.Host,
	})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("%s %s/%s: %w", ref.Kind, ref.Namespace, ref.Name, err)
	}
	return nil
}

// eventName is a valid name that says whose event it is.
func eventName(object, id string) string {
	const most = 253 - 17
	if len(object) > most {
		object = strings.TrimRight(object[:most], ".-")
	}
	return object + "." + id
}
