package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/strata-csi/strata/pkg/store"
)

// server is an API server, as far as events need one, that can be out of order.
type server struct {
	*testing.T
	*httptest.Server
	id   store.ID
	mode atomic.Value // "", "hang", "fail" or "forget"
	over chan struct{}

	mu     sync.Mutex
	events []corev1.Event
	calls  int
}

func newServer(t *testing.T) *server {
	s := &server{T: t, id: store.NewID(), over: make(chan struct{})}
	s.mode.Store("")
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		close(s.over)
		s.Close()
	})
	return s
}

func (s *server) cluster() *Cluster {
	s.Helper()
	c, err := ConnectAt(s.URL, "test")
	if err != nil {
		s.Fatal(err)
	}
	return c
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.calls++
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch s.mode.Load() {
	case "hang":
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-s.over:
		case <-r.Context().Done():
		}
		return
	case "fail":
		http.Error(w, "starting", http.StatusServiceUnavailable)
		return
	}
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/api/v1/namespaces/ns/events":
		var e corev1.Event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			s.Error(err)
		}
		s.mu.Lock()
		s.events = append(s.events, e)
		s.mu.Unlock()
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(e)
	case r.URL.Path == "/api/v1/persistentvolumes/pvc-1":
		_ = json.NewEncoder(w).Encode(volume("pvc-1", testDriver, "v1:p:"+string(s.id)+":x", "data"))
	case r.URL.Path == contents+"snapcontent-"+string(s.id):
		fmt.Fprintf(w, `{"spec":{"driver":%q,"volumeSnapshotRef":{"kind":"VolumeSnapshot","namespace":"ns","name":"backup","uid":"u"}},
			"status":{"snapshotHandle":"s1:p:%s:x"}}`, testDriver, s.id)
	default:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
	}
}

func (s *server) notice(key string) Notice {
	n := flattened("pvc-1", s.id)
	n.Key = key
	return n
}

func TestEventOnSnapshot(t *testing.T) {
	s := newServer(t)
	r := record(t, s.cluster(), Options{Age: time.Second})
	for _, name := range []string{"snapshot-" + string(s.id), "prefix-of-mine-" + string(s.id), "nightly", "snapshot-" + string(store.NewID())} {
		r.Tell(Notice{About: Subject{Snapshot: true, Name: name, UUID: string(s.id)}, Reason: FlattenDone, Key: name})
	}
	r.Tell(Notice{About: Subject{Snapshot: true, Name: "snapshot-" + string(s.id), UUID: string(store.NewID())}, Reason: FlattenDone})
	stats(t, r, Stats{Delivered: 2, Unclaimed: 3})
	o := s.events[0].InvolvedObject
	if o.Kind != "VolumeSnapshot" || o.APIVersion != "snapshot.storage.k8s.io/v1" || o.Namespace != "ns" || o.Name != "backup" || o.UID != "u" {
		t.Errorf("on %+v", o)
	}
}

// tellMany tells n notices, which must not take long whatever the API does.
func tellMany(t *testing.T, r *Recorder, s *server, n int) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range n {
			r.Tell(s.notice(fmt.Sprint("many ", i)))
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("telling waits for the API")
	}
}

// closeSoon closes a recorder, which must not wait for the API.
func closeSoon(t *testing.T, r *Recorder) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Close()
	}()
	select {
	case <-done:
	case <-time.After(callTime / 2):
		t.Fatal("closing waits for the API")
	}
}

// An API that takes requests and does not answer holds up nobody, and costs no more than
// the queue.
func TestHangingAPI(t *testing.T) {
	s := newServer(t)
	s.mode.Store("hang")
	r := record(t, s.cluster(), Options{Queue: 100})
	tellMany(t, r, s, 10_000)
	if got, want := r.Stats(), (Stats{Dropped: 9_900, Waiting: 100}); got != want {
		t.Errorf("counts are %+v, want %+v", got, want)
	}
	closeSoon(t, r)
	if got, want := r.Stats(), (Stats{Dropped: 10_000}); got != want {
		t.Errorf("after the end counts are %+v, want %+v", got, want)
	}
	tellMany(t, r, s, 1)
}

// The same with no API at all; what waits becomes an event when it is back, in order.
func TestAPIComesBack(t *testing.T) {
	for _, mode := range []string{"fail", "down"} {
		t.Run(mode, func(t *testing.T) {
			s := newServer(t)
			s.mode.Store("fail")
			c := s.cluster()
			if mode == "down" {
				gone := httptest.NewServer(http.NotFoundHandler())
				gone.Close()
				away, err := ConnectAt(gone.URL, "test")
				if err != nil {
					t.Fatal(err)
				}
				c = away
			}
			failed := make(chan error, 100)
			r := record(t, c, Options{Failed: func(err error) { failed <- err }})
			for i := range 5 {
				r.Tell(s.notice(fmt.Sprint(i)))
			}
			if err := <-failed; !strings.Contains(err.Error(), "does not answer") {
				t.Errorf("failed with %v", err)
			}
			if mode == "down" {
				closeSoon(t, r)
				return
			}
			s.mode.Store("")
			stats(t, r, Stats{Delivered: 5})
			if len(failed) != 0 {
				t.Errorf("an outage was told twice: %v", <-failed)
			}
			for i := range 4 {
				if s.events[i].Name == s.events[i+1].Name {
					t.Errorf("event %d is told twice", i)
				}
			}
		})
	}
}

// News that are old are none.
func TestOldNoticesAreGivenUp(t *testing.T) {
	s := newServer(t)
	s.mode.Store("fail")
	failed := make(chan error, 100)
	r := record(t, s.cluster(), Options{Age: 30 * time.Millisecond, Failed: func(err error) { failed <- err }})
	r.Tell(s.notice("1"))
	r.Tell(s.notice("2"))
	stats(t, r, Stats{Dropped: 2})
	var all error
	for range 2 {
		all = errors.Join(all, <-failed)
	}
	if !strings.Contains(all.Error(), "given up") {
		t.Errorf("failed with %v", all)
	}
	s.mode.Store("")
	r.Tell(s.notice("1"))
	stats(t, r, Stats{Dropped: 2, Delivered: 1})
}

func TestConnectOutsideOfCluster(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := Connect("test"); !errors.Is(err, ErrNotInCluster) || InCluster() {
		t.Errorf("connected with %v, in cluster %v", err, InCluster())
	}
}
