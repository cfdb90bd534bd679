package stage_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/stage/stagetest"
	"github.com/strata-csi/strata/pkg/store"
)

const (
	mib = int64(1) << 20
	// patience is how long a test waits for what must happen.
	patience = 20 * time.Second
)

// rig is a world with one service on it at a time.
type rig struct {
	*stagetest.World
	t   *testing.T
	svc *stage.Service
	// tune changes the configuration of services opened later.
	tune func(*stage.Config)

	mu     sync.Mutex
	events []stage.Event
	heard  chan struct{} // closed and renewed at each event
}

func newRig(t *testing.T, real bool) *rig {
	t.Helper()
	if os.Getenv("STRATA_GUEST") != "" {
		t.Skip("runs on the host; in guests the tests with the kernel's NBD do")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w, err := stagetest.New(dir, real)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{World: w, t: t, heard: make(chan struct{})}
	t.Cleanup(r.close)
	r.open()
	return r
}

// open starts the node's process.
func (r *rig) open() {
	r.t.Helper()
	if err := r.tryOpen(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) tryOpen() error {
	cfg := r.Config()
	cfg.Tick = 10 * time.Millisecond
	cfg.Notify = r.notify
	if r.tune != nil {
		r.tune(&cfg)
	}
	svc, err := stage.Open(r.t.Context(), cfg)
	r.svc = svc
	return err
}

// close ends the process in good order.
func (r *rig) close() {
	if r.svc == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.svc.Close(ctx); err != nil {
		r.t.Error(err)
	}
	r.svc = nil
}

// restart ends the process and starts another.
func (r *rig) restart() {
	r.t.Helper()
	r.close()
	r.Kernel.Forget()
	r.open()
}

func (r *rig) notify(e stage.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	close(r.heard)
	r.heard = make(chan struct{})
}

// await waits for an event of a volume.
func (r *rig) await(kind stage.EventKind, volume string) stage.Event {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	for {
		r.mu.Lock()
		for _, e := range r.events {
			if e.Kind == kind && e.Volume == volume {
				r.mu.Unlock()
				return e
			}
		}
		heard := r.heard
		r.mu.Unlock()
		select {
		case <-heard:
		case <-ctx.Done():
			r.t.Fatalf("no event %q of volume %q; there were %v", kind, volume, r.kinds())
		}
	}
}

func (r *rig) kinds() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []string
	for _, e := range r.events {
		list = append(list, fmt.Sprintf("%s %s %v", e.Kind, e.Volume, e.Err))
	}
	return list
}

func (r *rig) count(kind stage.EventKind) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

func (r *rig) forgetEvents() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = nil
}

// until waits for a state of which nothing tells.
func (r *rig) until(what string, cond func() bool) {
	r.t.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !cond() {
		select {
		case <-again.C:
		case <-end.C:
			r.t.Fatalf("%s: never; events: %v", what, r.kinds())
		}
	}
}

func imageID(n int) store.ID { return store.ID(fmt.Sprintf("10000000-0000-4000-8000-%012d", n)) }

// image makes an image.
func (r *rig) image(n int, size int64, change func(*store.Info)) store.ID {
	r.t.Helper()
	if err := r.Store.Add(imageID(n), size, change); err != nil {
		r.t.Fatal(err)
	}
	return imageID(n)
}

// request publishes the image and asks for it to be staged.
func (r *rig) request(id store.ID, access store.Access, c stage.Capability) stage.Request {
	r.t.Helper()
	t, err := r.Ticket(r.t.Context(), id, access)
	if err != nil {
		r.t.Fatal(err)
	}
	return stage.Request{Volume: "v1:" + string(id), Ticket: t, Path: filepath.Join(r.Dir, "staging", string(id)), Capability: c}
}

// ext4 asks for an empty image of 16 MiB with a file system.
func (r *rig) ext4(n int) stage.Request {
	r.t.Helper()
	return r.request(r.image(n, 16*mib, nil), store.AccessWrite, stage.Capability{FS: "ext4"})
}

func (r *rig) block(n int) stage.Request {
	r.t.Helper()
	return r.request(r.image(n, 16*mib, nil), store.AccessWrite, stage.Capability{Block: true})
}

func (r *rig) publish(req stage.Request, name string) stage.PublishRequest {
	return stage.PublishRequest{
		Volume: req.Volume, Staging: req.Path, Capability: req.Capability,
		Target: stage.Target{Path: filepath.Join(r.Dir, "pods", name), Flags: req.Capability.Flags},
	}
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// clean fails if anything is left on the host.
func (r *rig) clean(when string) {
	r.t.Helper()
	left, err := r.Left(r.t.Context())
	r.must(err)
	if len(left) > 0 {
		r.t.Errorf("%s: left: %s", when, strings.Join(left, "; "))
	}
}

// volume is what List tells of a volume.
func (r *rig) volume(id string) (stage.Volume, bool) {
	list := r.svc.List()
	i := slices.IndexFunc(list, func(v stage.Volume) bool { return v.Volume == id })
	if i < 0 {
		return stage.Volume{}, false
	}
	return list[i], true
}

// formats counts the runs of mkfs.
func (r *rig) formats() int {
	n := 0
	for _, c := range r.Exec.Ran() {
		if strings.HasPrefix(c, "mkfs.") && !strings.HasSuffix(c, " -V") {
			n++
		}
	}
	return n
}

// wantErr fails unless err is of a kind and its text says what is needed.
func wantErr(t *testing.T, err, is error, text string) {
	t.Helper()
	if !errors.Is(err, is) || !strings.Contains(fmt.Sprint(err), text) {
		t.Errorf("error %v, want %v with %q", err, is, text)
	}
}

// crashing runs f with a process that ends at the n-th hit of a point. It tells whether
// the point was reached.
func (r *rig) crashing(point string, n int, f func(ctx context.Context) error) (crashed bool) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	var mu sync.Mutex
	dead := false
	stage.SetCrash(r.svc, func(at string) {
		mu.Lock()
		defer mu.Unlock()
		if dead {
			runtime.Goexit() // nothing goes on in a process that has ended
		}
		if at != point {
			return
		}
		if n--; n <= 0 {
			dead = true
			cancel()
			runtime.Goexit()
		}
	})
	_ = f(ctx)
	mu.Lock()
	defer mu.Unlock()
	return dead
}
