package kube

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// outage is a server with a volume, out of order.
func outage(t *testing.T, mode string) (*server, func(key string) Notice) {
	id := store.NewID()
	s := newServer(t, volume("pvc-1", testDriver, handleOf(id), "data"))
	s.set(mode)
	return s, func(key string) Notice {
		n := flattened("pvc-1", id)
		n.Key = key
		return n
	}
}

// tellMany tells n notices, which must not take long whatever the API does.
func tellMany(t *testing.T, r *Recorder, notice func(string) Notice, n int) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range n {
			r.Tell(notice(fmt.Sprint("many ", i)))
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
	s, notice := outage(t, "hang")
	r := record(t, s.cluster(), Options{Queue: 100})
	tellMany(t, r, notice, 10_000)
	if got, want := r.Stats(), (Stats{Dropped: 9_900, Waiting: 100}); got != want {
		t.Errorf("counts are %+v, want %+v", got, want)
	}
	closeSoon(t, r)
	if got, want := r.Stats(), (Stats{Dropped: 10_000}); got != want {
		t.Errorf("after the end counts are %+v, want %+v", got, want)
	}
	tellMany(t, r, notice, 1)
}

// The same with no API at all; what waits becomes an event when it is back, in order.
func TestAPIComesBack(t *testing.T) {
	for _, mode := range []string{"fail", "down"} {
		t.Run(mode, func(t *testing.T) {
			s, notice := outage(t, "fail")
			c := s.cluster()
			if mode == "down" {
				gone := httptest.NewServer(http.NotFoundHandler())
				gone.Close()
				away, err := ConnectAt(gone.URL, "strata/test")
				if err != nil {
					t.Fatal(err)
				}
				c = away
			}
			failed := make(chan error, 100)
			r := record(t, c, Options{Failed: func(err error) { failed <- err }})
			for i := range 5 {
				r.Tell(notice(fmt.Sprint(i)))
			}
			if err := <-failed; !strings.Contains(err.Error(), "does not answer") {
				t.Errorf("failed with %v", err)
			}
			if mode == "down" {
				closeSoon(t, r)
				return
			}
			s.set("")
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
	s, notice := outage(t, "fail")
	failed := make(chan error, 100)
	r := record(t, s.cluster(), Options{Age: 30 * time.Millisecond, Failed: func(err error) { failed <- err }})
	r.Tell(notice("1"))
	r.Tell(notice("2"))
	stats(t, r, Stats{Dropped: 2})
	var all error
	for range 2 {
		all = errors.Join(all, <-failed)
	}
	if !strings.Contains(all.Error(), "given up") {
		t.Errorf("failed with %v", all)
	}
	s.set("")
	r.Tell(notice("1"))
	stats(t, r, Stats{Dropped: 2, Delivered: 1})
}

func TestConnectOutsideOfCluster(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := Connect("strata/test"); !errors.Is(err, ErrNotInCluster) || InCluster() {
		t.Errorf("connected with %v, in cluster %v", err, InCluster())
	}
}
