package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
)

func TestErrnoTableIsComplete(t *testing.T) {
	for _, sentinel := range store.Sentinels() {
		found := false
		for _, row := range errnos() {
			found = found || row.is == sentinel
		}
		if !found {
			t.Errorf("%v is not in the table", sentinel)
		}
		var n interface{ Errno() nbd.Errno }
		if err := number(fmt.Errorf("op: %w", sentinel)); !errors.As(err, &n) || !errors.Is(err, sentinel) || n.Errno() == 0 {
			t.Errorf("%v becomes %v", sentinel, err)
		}
	}
	for err, want := range map[error]nbd.Errno{
		store.ErrNoSpace: nbd.ENOSPC, store.ErrReadOnly: nbd.EPERM, store.ErrFenced: nbd.EPERM, store.ErrRange: nbd.EINVAL,
		store.ErrInvalid: nbd.EINVAL, store.ErrUnsupported: nbd.ENOTSUP, store.ErrCorrupt: nbd.EIO, errors.New("x"): nbd.EIO,
	} {
		if got := number(err).(numbered).Errno(); got != want {
			t.Errorf("%v becomes %v, want %v", err, got, want)
		}
	}
	if number(nil) != nil {
		t.Error("no error becomes one")
	}
}

func TestNames(t *testing.T) {
	id := store.NewID()
	p := store.Publication{ID: id, Target: id, Epoch: 7, Token: strings.Repeat("ab", 16)}
	n, err := parseName(Name(p, 12))
	if err != nil || n != (name{id: p.ID, epoch: 7, token: p.Token, generation: 12}) {
		t.Errorf("a publication's name becomes %+v, %v", n, err)
	}
	for s, want := range map[string]name{
		"img": {plain: "img"}, "img@s": {plain: "img@s"}, "ro/img": {plain: "img", readOnly: true}, "pub": {plain: "pub"},
	} {
		if n, err := parseName(s); err != nil || n != want {
			t.Errorf("%q becomes %+v, %v", s, n, err)
		}
	}
	of := string(p.ID)
	for _, s := range []string{"", "ro/", "pub/", "pub/x/1/secret/1", "pub/" + of + "/1/secret", "pub/" + of + "/-1/secret/1",
		"pub/" + of + "/1/secret/x", "pub/" + of + "/1//1", "pub/" + of + "/1/secret/1/1", "pub/" + of + "/1/secret/18446744073709551616"} {
		if n, err := parseName(s); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q becomes %+v, %v", s, n, err)
		}
	}
}

func TestPlainNames(t *testing.T) {
	r := newRig(t, Config{})
	snap := r.snapshot("s")
	data := bytes.Repeat([]byte{5}, 4096)
	c := r.dial("img")
	if c.Size() != imageSize || c.BlockSize() != 512 || c.ReadOnly() {
		t.Errorf("img has size %d, block size %d, read-only %v", c.Size(), c.BlockSize(), c.ReadOnly())
	}
	if _, err := c.WriteAt(data, 4096); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{
		"img": data, string(r.img.ID): data, "ro/img": data, "img@s": make([]byte, 4096), string(snap.ID): make([]byte, 4096),
	} {
		c := r.dial(name)
		got := make([]byte, 4096)
		if _, err := c.ReadAt(got, 4096); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s reads other data, %v", name, err)
		}
		readOnly := name != "img" && name != string(r.img.ID)
		if _, err := c.WriteAt(data[:512], 0); c.ReadOnly() != readOnly || readOnly != errors.Is(err, nbd.EPERM) {
			t.Errorf("%s: read-only %v, a write returns %v", name, c.ReadOnly(), err)
		}
	}
	_, err := r.try("nope")
	wantRefusal(t, err, nbd.Unknown, `there is no image or snapshot "nope"`)
	_, err = r.try("img@nope")
	wantRefusal(t, err, nbd.Unknown, `there is no image or snapshot "img@nope"`)
	_, err = r.try(string(store.NewID()))
	if err == nil {
		t.Error("an unknown id is served")
	}
	for _, bad := range []string{"a/b", "-x", "img@", "@s", "a@b@c"} {
		if _, err := r.try(bad); err == nil {
			t.Errorf("%q is served", bad)
		}
	}
}

func TestPlainNamesOverTCP(t *testing.T) {
	r := newRig(t, Config{})
	_, err := r.from("127.0.0.1", "img")
	wantRefusal(t, err, nbd.Policy, "images are served by name on the local socket only")
	p := r.publish("n1", store.AccessWrite)
	if _, err := r.from("127.0.0.1", Name(p, 1)); err != nil {
		t.Errorf("a publication over TCP: %v", err)
	}
}

// A session is what comes from one host, or one process.
func TestOneWriter(t *testing.T) {
	r := newRig(t, Config{PlainOverTCP: true})
	a, err := r.from("127.0.0.1", "img")
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.from("127.0.0.1", "img")
	if err != nil {
		t.Fatalf("a second connection of the session: %v", err)
	}
	const busy = `image "img" is in use by host 127.0.0.1; ro/img gives read access`
	_, err = r.from("127.0.0.2", "img")
	wantRefusal(t, err, nbd.Policy, busy)
	_, err = r.try("img")
	wantRefusal(t, err, nbd.Policy, busy)
	_, err = r.reg.Publish(r.patience, r.img.ID, "n1", store.AccessWrite)
	if !errors.Is(err, store.ErrInUse) || !strings.Contains(err.Error(), "host 127.0.0.1") {
		t.Errorf("Publish during a session: %v", err)
	}
	if _, err = r.reg.Publish(r.patience, r.img.ID, "n1", store.AccessRead); !errors.Is(err, store.ErrInUse) {
		t.Errorf("Publish for reading during a session: %v", err)
	}
	if who := r.reg.InUse(r.img.ID); who != "host 127.0.0.1" {
		t.Errorf("in use by %q", who)
	}
	if err := r.src.Remove(r.patience, r.img.ID); !errors.Is(err, store.ErrInUse) {
		t.Errorf("Remove during a session: %v", err)
	}
	if _, err := r.from("127.0.0.2", "ro/img"); err != nil {
		t.Errorf("reading beside the session: %v", err)
	}
	a.Close()
	_, err = r.from("127.0.0.2", "img")
	wantRefusal(t, err, nbd.Policy, busy)
	b.Close()
	if _, err := r.from("127.0.0.2", "img"); err != nil {
		t.Errorf("after the session: %v", err)
	}
}

// A client that comes while the one before it is leaving does not fail.
func TestPatience(t *testing.T) {
	r := newRig(t, Config{PlainOverTCP: true, Patience: time.Minute})
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release)
	entered := make(chan struct{})
	r.src.onWrite = func([]byte, int64) error { close(entered); <-hold; return nil }
	a, err := r.from("127.0.0.1", "img")
	if err != nil {
		t.Fatal(err)
	}
	go a.WriteAt(make([]byte, 512), 0)
	<-entered
	admitted := make(chan error, 1)
	go func() {
		_, err := r.from("127.0.0.2", "img")
		admitted <- err
	}()
	a.Close()
	select {
	case err := <-admitted:
		t.Fatalf("admitted while a write of the older session is active: %v", err)
	default:
	}
	release()
	if err := <-admitted; err != nil {
		t.Error(err)
	}
}

func TestPublishedForWritingRefusesPlain(t *testing.T) {
	r := newRig(t, Config{})
	r.publish("n1", store.AccessWrite)
	_, err := r.try("img")
	wantRefusal(t, err, nbd.Policy, `image "img" is published to node n1; ro/img gives read access`)
	r.snapshot("s")
	for _, name := range []string{"ro/img", "img@s"} {
		if c, err := r.try(name); err != nil || !c.ReadOnly() {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := r.reg.Unpublish(r.patience, r.img.ID, "n1"); err != nil {
		t.Fatal(err)
	}
	if c := r.dial("img"); c.ReadOnly() {
		t.Error("after Unpublish the image cannot be written")
	}
}

func TestPublishedForReading(t *testing.T) {
	r := newRig(t, Config{})
	a, b := r.publish("n1", store.AccessRead), r.publish("n2", store.AccessRead)
	for _, name := range []string{Name(a, 1), Name(b, 1), "img", "ro/img"} {
		c := r.dial(name)
		if _, err := c.WriteAt(make([]byte, 512), 0); !c.ReadOnly() || !errors.Is(err, nbd.EPERM) {
			t.Errorf("a write returns %v", err)
		}
	}
}

func TestList(t *testing.T) {
	r := newRig(t, Config{})
	r.create("another")
	r.snapshot("s")
	local := connOf(t, r, "img")
	entries, err := r.reg.List(context.Background(), local)
	if err != nil || fmt.Sprint(entries) != "[{another image another} {img image img} {img@s snapshot img@s}]" {
		t.Errorf("listed %v, %v", entries, err)
	}
}

// All connections to an object share one device, which is closed after the last.
func TestOneDevice(t *testing.T) {
	r := newRig(t, Config{})
	clients := []*nbd.Client{r.dial("img"), r.dial("img"), r.dial("ro/img"), r.dial(string(r.img.ID))}
	if o, c := r.src.opened.Load(), r.src.closed.Load(); o != 1 || c != 0 {
		t.Errorf("opened %d times, closed %d times", o, c)
	}
	for _, c := range clients {
		c.Close()
	}
	for r.src.closed.Load() != 1 { // the server notices soon
		wait(0)
		if r.patience.Err() != nil {
			t.Fatal("the device is never closed")
		}
	}
}
