package export

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
)

func (r *rig) limit(id store.ID, l store.Limits) {
	r.t.Helper()
	if _, err := r.reg.Modify(r.patience, id, store.Change{Limits: &l}); err != nil {
		r.t.Fatal(err)
	}
}

// slowest is a limit under which whoever has written once never writes again.
func slowest() store.Limits { return store.Limits{Bandwidth: 1} }

// waiting is a number of writes that wait for their turn; what they answered comes on
// the channel.
func (r *rig) waiting(id store.ID, c *nbd.Client, n int) <-chan error {
	r.t.Helper()
	ended := make(chan error, n)
	for range n {
		go func() {
			_, err := c.WriteAt(bytes.Repeat([]byte{7}, 4096), 0)
			ended <- err
		}()
	}
	r.until(func() bool {
		o := r.reg.object(id)
		defer r.reg.release(o)
		o.limit.mu.Lock()
		defer o.limit.mu.Unlock()
		return o.limit.queue.Len() == n
	})
	return ended
}

// until waits for a condition.
func (r *rig) until(ok func() bool) {
	r.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-r.patience.Done():
			r.t.Fatal("it never comes about")
		}
	}
}

// Limits hold at once for connections that are open, and only for writes and reads of
// that image.
func TestLimitedImage(t *testing.T) {
	r := newRig(t, Config{})
	other := r.dial(r.create("other").Name)
	p := r.publish("n1", store.AccessWrite)
	c := r.dial(Name(p, 1))
	if _, err := c.WriteAt(make([]byte, 8192), 0); err != nil {
		t.Fatal(err)
	}
	r.limit(r.img.ID, slowest())
	if _, err := c.WriteAt(make([]byte, 8192), 0); err != nil {
		t.Fatal(err) // a burst is allowed, and a request is never cut in two
	}
	ended := r.waiting(r.img.ID, c, 40)
	if err := c.Flush(); err != nil {
		t.Errorf("a flush beside writes that wait: %v", err)
	}
	if _, err := other.WriteAt(make([]byte, 1<<20), 0); err != nil {
		t.Errorf("another image: %v", err)
	}
	select {
	case err := <-ended:
		t.Fatalf("a write did not wait: %v", err)
	default:
	}
	r.limit(r.img.ID, store.Limits{})
	for range 40 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// Limits of an image hold from the first request of a connection.
func TestLimitsAtOpen(t *testing.T) {
	r := newRig(t, Config{})
	l := slowest()
	if _, err := r.src.Modify(r.patience, r.img.ID, store.Change{Limits: &l}); err != nil {
		t.Fatal(err)
	}
	c := r.dial(Name(r.publish("n1", store.AccessWrite), 1))
	if _, err := c.ReadAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	ended := r.waiting(r.img.ID, c, 3)
	c.Close() // who waits for its turn must not keep the server from its end
	if err := r.reg.Unpublish(r.patience, r.img.ID, "n1"); err != nil {
		t.Error(err)
	}
	for range 3 {
		<-ended
	}
}

// A node's right ends although its requests wait for their turn.
func TestUnpublishOfTheLimited(t *testing.T) {
	r := newRig(t, Config{})
	r.limit(r.img.ID, slowest())
	p := r.publish("n1", store.AccessWrite)
	c := r.dial(Name(p, 1))
	if _, err := c.WriteAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	ended := r.waiting(r.img.ID, c, 20)
	if err := r.reg.Unpublish(r.patience, r.img.ID, "n1"); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		var errno nbd.Errno
		if err := <-ended; err == nil || errors.As(err, &errno) {
			t.Errorf("a write that waited ended with %v, want no answer", err)
		}
	}
	got := make([]byte, 512)
	if _, err := r.dial("ro/"+string(r.snapshot("s").ID)).ReadAt(got, 0); err != nil || got[0] == 7 {
		t.Errorf("a write that waited was done: %d, %v", got[0], err)
	}
}

// Requests that wait do not take the memory that other images need.
func TestTheLimitedLeaveRoom(t *testing.T) {
	r := newRig(t, Config{PlainOverTCP: true})
	r.limit(r.img.ID, slowest())
	p := r.publish("n1", store.AccessWrite)
	ctx, cancel := context.WithCancel(r.patience)
	defer cancel()
	for range 6 {
		c := r.dial(Name(p, 1))
		for range 100 {
			go c.WriteAt(make([]byte, 256<<10), 0)
		}
	}
	r.until(func() bool {
		o := r.reg.object(r.img.ID)
		defer r.reg.release(o)
		o.limit.mu.Lock()
		defer o.limit.mu.Unlock()
		return o.limit.queue.Len() >= 6
	})
	other, err := r.from("127.0.0.9", r.create("other").Name)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if _, err := other.WriteAt(make([]byte, 1<<20), 0); err != nil {
			t.Fatal(err)
		}
	}
	if ctx.Err() != nil {
		t.Error("it took too long")
	}
	if err := r.reg.Unpublish(r.patience, r.img.ID, ""); err != nil {
		t.Error(err)
	}
}

// Nodes that share an image write to it at once.
func TestSharedWriters(t *testing.T) {
	r := newRig(t, Config{})
	a, b := r.dial(Name(r.publish("n1", store.AccessShared), 1)), r.dial(Name(r.publish("n2", store.AccessShared), 5))
	for i, c := range []*nbd.Client{a, b, a, b} {
		if _, err := c.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 512), int64(i)*512); err != nil {
			t.Errorf("write %d: %v", i, err)
		}
	}
	_, err := r.try("img")
	wantRefusal(t, err, nbd.Policy, `image "img" is published to node n1; ro/img gives read access`)
	if err := r.reg.Unpublish(r.patience, r.img.ID, "n1"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.WriteAt(make([]byte, 512), 0); err == nil {
		t.Error("a node whose right was withdrawn can write")
	}
	got := make([]byte, 2048)
	if _, err := b.ReadAt(got, 0); err != nil || got[0] != 1 || got[512] != 2 || got[1024] != 3 || got[1536] != 4 {
		t.Errorf("the node that is left reads %d %d %d %d, %v", got[0], got[512], got[1024], got[1536], err)
	}
}

// A private head is attached by its own id, written by its node alone, and ends with
// its publication.
func TestScratchHead(t *testing.T) {
	r := newRig(t, Config{})
	snap := r.snapshot("s")
	var pubs []store.Publication
	for _, id := range []store.ID{snap.ID, snap.ID, r.img.ID} {
		p, err := r.reg.Publish(r.patience, id, string(rune('a'+len(pubs))), store.AccessScratch)
		if err != nil {
			t.Fatal(err)
		}
		pubs = append(pubs, p)
	}
	for i, p := range pubs {
		c := r.dial(Name(p, 1))
		if _, err := c.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 512), 0); err != nil || c.ReadOnly() {
			t.Fatalf("a private head: read-only %v, %v", c.ReadOnly(), err)
		}
		plain := r.dial(string(p.Target))
		if _, err := plain.WriteAt(make([]byte, 512), 0); !errors.Is(err, nbd.EPERM) {
			t.Errorf("a plain client writes to a private head: %v", err)
		}
	}
	wrong := pubs[0]
	wrong.Target = snap.ID
	_, err := r.try(Name(wrong, 1))
	wantRefusal(t, err, nbd.Policy, "the publication with epoch 1 gives its node a private head, which has another id")
	got := make([]byte, 512)
	if _, err := r.dial("img@s").ReadAt(got, 0); err != nil || got[0] != 0 {
		t.Errorf("the source reads %d, %v", got[0], err)
	}
	r.endOfScratch(pubs)
}

// endOfScratch withdraws the first publication while a write of its node is active.
func (r *rig) endOfScratch(pubs []store.Publication) {
	t := r.t
	t.Helper()
	release := held(t, r, store.Publication{Target: pubs[0].Target, Epoch: pubs[0].Epoch, Token: pubs[0].Token})
	short, cancel := context.WithTimeout(r.patience, 10*time.Millisecond)
	defer cancel()
	if err := r.reg.Unpublish(short, pubs[0].ID, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Unpublish while a write is active: %v", err)
	}
	_, err := r.try(Name(pubs[0], 9))
	wantRefusal(t, err, nbd.Policy, "the publication with epoch 1 was withdrawn or never existed")
	ended := make(chan error, 1)
	go func() { ended <- r.reg.Unpublish(r.patience, pubs[0].ID, "a") }()
	select {
	case err := <-ended:
		t.Errorf("repeated, Unpublish does not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	release()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	got := make([]byte, 512)
	if _, err := r.dial(Name(pubs[1], 1)).ReadAt(got, 0); err != nil || got[0] != 2 {
		t.Errorf("another node's head reads %d, %v", got[0], err)
	}
}
