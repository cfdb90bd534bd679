package export

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
)

// shared is a source that another process serves too.
type shared struct {
	*source
	onHold func() error

	mu        sync.Mutex
	withdrawn chan struct{}
	holds     int
	dropped   chan struct{}
}

func (s *shared) Hold(context.Context, store.ID, uint64) (<-chan struct{}, func(), error) {
	if s.onHold != nil {
		if err := s.onHold(); err != nil {
			return nil, nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds++
	return s.withdrawn, func() { close(s.dropped) }, nil
}

func newShared(t *testing.T) (*rig, *shared, store.Publication) {
	t.Helper()
	r := newRig(t, Config{})
	s := &shared{source: r.src, withdrawn: make(chan struct{}), dropped: make(chan struct{})}
	r.reg.src = s
	return r, s, r.publish("n1", store.AccessWrite)
}

// within fails the test if nothing comes in time.
func within(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		t.Fatalf("waited in vain: %s", what)
	}
}

// TestWithdrawnElsewhere: when another process withdraws a publication, its connection
// ends, and it is taken off the records only after its last request.
func TestWithdrawnElsewhere(t *testing.T) {
	r, s, p := newShared(t)
	begun, finish := make(chan struct{}), make(chan struct{})
	r.src.onWrite = func([]byte, int64) error { close(begun); <-finish; return nil }
	c := r.dial(Name(p, 1))
	failed := make(chan error, 1)
	go func() {
		_, err := c.WriteAt(make([]byte, 512), 0)
		failed <- err
	}()
	within(t, "a write has begun", begun)
	close(s.withdrawn)
	if err := <-failed; err == nil {
		t.Error("a write was answered after the publication was withdrawn")
	}
	select {
	case <-s.dropped:
		t.Error("the connection is off the records while a write of it is under way")
	default:
	}
	close(finish)
	within(t, "the record is dropped", s.dropped)
}

// TestHoldEndsWithTheConnection: an orderly end takes it off the records too.
func TestHoldEndsWithTheConnection(t *testing.T) {
	r, s, p := newShared(t)
	c := r.dial(Name(p, 1))
	if s.holds != 1 {
		t.Fatalf("%d holds", s.holds)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	within(t, "the record is dropped", s.dropped)
}

// TestWithdrawnBeforeTheRecord: a publication that was withdrawn elsewhere between the
// check and the record admits nobody.
func TestWithdrawnBeforeTheRecord(t *testing.T) {
	r, s, p := newShared(t)
	s.onHold = func() error { return r.src.Unpublish(r.patience, r.img.ID, "n1") }
	opened := r.src.opened.Load()
	_, err := r.try(Name(p, 1))
	wantRefusal(t, err, nbd.Policy, "the publication with epoch 1 was withdrawn or never existed")
	if r.src.opened.Load() != opened {
		t.Error("the device was opened")
	}
	within(t, "the record is dropped", s.dropped)
}

// TestHoldRefused: without a record there is no connection.
func TestHoldRefused(t *testing.T) {
	r, s, p := newShared(t)
	s.onHold = func() error { return store.ErrUnavailable }
	var refusal *nbd.Refusal
	if _, err := r.try(Name(p, 1)); !errors.As(err, &refusal) {
		t.Errorf("got %v", err)
	}
}
