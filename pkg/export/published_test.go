package export

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
)

// connOf opens an export and returns the server's side of its connection.
func connOf(t *testing.T, r *rig, name string) *nbd.Conn {
	t.Helper()
	r.dial(name)
	r.reg.mu.Lock()
	defer r.reg.mu.Unlock()
	for _, o := range r.reg.objects {
		for c := range o.plain {
			return c
		}
	}
	t.Fatal("no session is registered")
	return nil
}

func TestTokens(t *testing.T) {
	r := newRig(t, Config{})
	p := r.publish("n1", store.AccessWrite)
	wrong := p
	wrong.Token = strings.Repeat("0", 32)
	_, err := r.try(Name(wrong, 1))
	wantRefusal(t, err, nbd.Policy, "the token of epoch 1 is wrong")
	wrong = p
	wrong.Epoch = 9
	const gone = "the publication with epoch %d was withdrawn or never existed"
	_, err = r.try(Name(wrong, 1))
	wantRefusal(t, err, nbd.Policy, fmt.Sprintf(gone, 9))
	if strings.Contains(err.Error(), p.Token) {
		t.Error("the token is in the error")
	}
	wrong = p
	wrong.Target = store.NewID()
	_, err = r.try(Name(wrong, 1))
	wantRefusal(t, err, nbd.Policy, fmt.Sprintf(gone, 1))
	if len(r.reg.objects) != 0 {
		t.Error("a client without a right takes memory")
	}
	if err := r.reg.Unpublish(r.patience, r.img.ID, ""); err != nil {
		t.Fatal(err)
	}
	_, err = r.try(Name(p, 1))
	wantRefusal(t, err, nbd.Policy, fmt.Sprintf(gone, 1))
	if again := r.publish("n1", store.AccessWrite); again.Epoch == p.Epoch || again.Token == p.Token {
		t.Error("a new publication has the old right")
	} else if _, err := r.try(Name(again, 0)); err != nil {
		t.Errorf("generations of a new epoch begin anew: %v", err)
	}
}

func TestGenerations(t *testing.T) {
	r := newRig(t, Config{})
	p := r.publish("n1", store.AccessWrite)
	one, parallel := r.dial(Name(p, 3)), r.dial(Name(p, 3))
	if _, err := one.WriteAt(make([]byte, 512), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := parallel.WriteAt(make([]byte, 512), 0); err != nil {
		t.Fatal(err)
	}
	_, err := r.try(Name(p, 2))
	wantRefusal(t, err, nbd.Policy, "generation 2 is older than generation 3, which is attached")
	newer := r.dial(Name(p, 4))
	for _, c := range []*nbd.Client{one, parallel} {
		if _, err := c.WriteAt(make([]byte, 512), 0); err == nil {
			t.Error("a connection of an older generation can write")
		}
	}
	if _, err := newer.WriteAt(make([]byte, 512), 0); err != nil {
		t.Error(err)
	}
	newer.Close()
	_, err = r.try(Name(p, 3))
	wantRefusal(t, err, nbd.Policy, "generation 3 is older than generation 4, which is attached")
}

// held is a connection with a write that the device has begun and not finished.
func held(t *testing.T, r *rig, p store.Publication) (release func()) {
	t.Helper()
	hold, entered := make(chan struct{}), make(chan struct{})
	release = sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release)
	var once atomic.Bool
	r.src.onWrite = func([]byte, int64) error {
		if once.CompareAndSwap(false, true) {
			close(entered)
			<-hold
		}
		return nil
	}
	c := r.dial(Name(p, 1))
	go c.WriteAt(bytes.Repeat([]byte{1}, 512), 0)
	<-entered
	return release
}

// Unpublish answers after the last started request, and not before.
func TestUnpublishWaits(t *testing.T) {
	r := newRig(t, Config{})
	p := r.publish("n1", store.AccessWrite)
	release := held(t, r, p)
	ended := make(chan error, 1)
	go func() { ended <- r.reg.Unpublish(r.patience, r.img.ID, "n1") }()
	for { // the right ends at once
		pubs, err := r.reg.Publications(r.patience, r.img.ID)
		if err != nil {
			t.Fatal(err)
		}
		if len(pubs) == 0 {
			break
		}
		wait(0)
	}
	select {
	case <-ended:
		t.Fatal("Unpublish has answered while a write is active")
	case <-time.After(20 * time.Millisecond):
	}
	release()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := r.src.active.Load(); n != 0 {
		t.Errorf("%d writes are active", n)
	}
}

// When Unpublish gave up waiting, neither the next node nor a plain client may
// overlap with what is still going on, and repeating Unpublish waits again.
func TestUnpublishGivesUp(t *testing.T) {
	r := newRig(t, Config{})
	p := r.publish("n1", store.AccessWrite)
	release := held(t, r, p)
	short, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := r.reg.Unpublish(short, r.img.ID, "n1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Unpublish returned %v", err)
	}
	ended := make(chan error, 3)
	go func() { ended <- r.reg.Unpublish(r.patience, r.img.ID, "n1") }()
	go func() {
		_, err := r.try("img")
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Fatalf("somebody did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	release()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestNextNodeWaitsForTheLast(t *testing.T) {
	r := newRig(t, Config{})
	release := held(t, r, r.publish("n1", store.AccessWrite))
	short, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := r.reg.Unpublish(short, r.img.ID, "n1"); err == nil {
		t.Fatal("Unpublish did not wait")
	}
	next := r.publish("n2", store.AccessWrite)
	ended := make(chan error, 1)
	go func() {
		c, err := r.try(Name(next, 1))
		if err == nil {
			_, err = c.WriteAt(bytes.Repeat([]byte{2}, 512), 0)
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Fatalf("the next node did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	release()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 512)
	if _, err := r.dial("ro/img").ReadAt(got, 0); err != nil || got[0] != 2 {
		t.Errorf("the older write has won: %d, %v", got[0], err)
	}
}

// A connection that waits for its predecessor can itself be withdrawn.
func TestUnpublishWhileAttachWaits(t *testing.T) {
	r := newRig(t, Config{})
	p := r.publish("n1", store.AccessWrite)
	release := held(t, r, p)
	attached := make(chan error, 1)
	go func() {
		_, err := r.try(Name(p, 2))
		attached <- err
	}()
	for who := ""; who != "waiting"; wait(0) {
		r.reg.mu.Lock()
		if o := r.reg.objects[r.img.ID]; o.attached[p.Epoch].newest == 2 {
			who = "waiting"
		}
		r.reg.mu.Unlock()
	}
	ended := make(chan error, 1)
	go func() { ended <- r.reg.Unpublish(r.patience, r.img.ID, "") }()
	if err := <-attached; err == nil {
		t.Error("attached although the publication was withdrawn")
	}
	release()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A device that is fenced or closed under a client ends the connection instead of
// answering: an error reply would become an I/O error of a file system.
func TestFencedDeviceCuts(t *testing.T) {
	for _, sentinel := range []error{store.ErrFenced, store.ErrClosed} {
		r := newRig(t, Config{})
		r.src.onWrite = func([]byte, int64) error { return fmt.Errorf("write: %w", sentinel) }
		_, err := r.dial(Name(r.publish("n1", store.AccessWrite), 1)).WriteAt(make([]byte, 512), 0)
		var errno nbd.Errno
		if err == nil || errors.As(err, &errno) {
			t.Errorf("after %v the client sees %v", sentinel, err)
		}
	}
}

// A write sent on a connection that is cut, sent again on the next one and followed
// by a newer write, never reappears.
func TestStaleWrites(t *testing.T) {
	rnd := seed(t)
	var mu sync.Mutex
	delay := func(most int) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Duration(rnd.IntN(most)) * time.Microsecond
	}
	r := newRig(t, Config{})
	r.src.onWrite = func([]byte, int64) error { wait(delay(3000)); return nil }
	p := r.publish("n1", store.AccessWrite)
	var stale sync.WaitGroup
	old := r.dial(Name(p, 1))
	rounds := 500
	if testing.Short() {
		rounds = 50
	}
	for round := range rounds {
		size := []int{512, 4096, 100 << 10}[round%3]
		off := int64(round%8) * (256 << 10)
		first, newer := bytes.Repeat([]byte{1}, size), bytes.Repeat([]byte{2}, size)
		stale.Add(1)
		go func(c *nbd.Client) {
			defer stale.Done()
			c.WriteAt(first, off)
		}(old)
		wait(delay(2000))
		next := r.dial(Name(p, uint64(round)+2))
		if _, err := next.WriteAt(first, off); err != nil {
			t.Fatal(err)
		}
		if _, err := next.WriteAt(newer, off); err != nil {
			t.Fatal(err)
		}
		stale.Wait()
		got := make([]byte, size)
		if _, err := next.ReadAt(got, off); err != nil || !bytes.Equal(got, newer) {
			t.Fatalf("round %d: the stale write reappeared (%v)", round, err)
		}
		old = next
	}
}

// Attaches, reconnects and publications race; what reaches the device never goes
// back to an older epoch or generation.
func TestOrderUnderLoad(t *testing.T) {
	rnd := seed(t)
	r := newRig(t, Config{})
	var mu sync.Mutex
	var newest [2]uint64
	r.src.onWrite = func(p []byte, _ int64) error {
		at := [2]uint64{binary.BigEndian.Uint64(p), binary.BigEndian.Uint64(p[8:])}
		mu.Lock()
		defer mu.Unlock()
		if at[0] < newest[0] || at[0] == newest[0] && at[1] < newest[1] {
			t.Errorf("epoch and generation %v after %v", at, newest)
		}
		newest = at
		return nil
	}
	deadline := time.Now().Add(2 * time.Second)
	for round := 0; time.Now().Before(deadline); round++ {
		p := r.publish(fmt.Sprint("n", round%3), store.AccessWrite)
		var wg sync.WaitGroup
		for range 6 {
			generation := uint64(rnd.IntN(4))
			wg.Add(1)
			go func() {
				defer wg.Done()
				c, err := r.try(Name(p, generation))
				for i := 0; err == nil && i < 50; i++ {
					b := make([]byte, 512)
					binary.BigEndian.PutUint64(b, p.Epoch)
					binary.BigEndian.PutUint64(b[8:], generation)
					_, err = c.WriteAt(b, 0)
				}
			}()
		}
		wait(time.Duration(rnd.IntN(5000)) * time.Microsecond)
		if err := r.reg.Unpublish(r.patience, r.img.ID, p.Node); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
	}
}
