package storeapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"k8s.io/klog/v2/textlogger"

	"github.com/strata-csi/strata/pkg/pki"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
)

// logBuffer gathers log lines of several goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve offers full on a unix socket and returns a client of it and the log.
func serve(t *testing.T, full store.Full, endpoints ...string) (*Client, *logBuffer) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sapi") // short: a socket's path has little room
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return serveIn(t, dir, full, endpoints...)
}

func serveIn(t *testing.T, dir string, full store.Full, endpoints ...string) (*Client, *logBuffer) {
	t.Helper()
	log := new(logBuffer)
	logger := textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(log), textlogger.Verbosity(9)))
	l, err := net.Listen("unix", filepath.Join(dir, SocketName))
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(ServerOptions(logger, pki.Files{})...)
	NewServer(full, endpoints...).Register(g)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	c, err := Dial(dir, DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close client: %v", err)
		}
		g.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return c, log
}

func TestListsOfManyPagesArriveWhole(t *testing.T) {
	ctx := t.Context()
	mem := memstore.New()
	c, _ := serve(t, mem)
	const images = 3*pageItems + 7
	parent, err := c.Create(ctx, store.Spec{Name: "parent", Size: store.Block})
	if err != nil {
		t.Fatal(err)
	}
	for i := range images - 1 {
		if _, err := c.Create(ctx, store.Spec{Name: fmt.Sprintf("img-%04d", i), Parent: parent.ID}); err != nil {
			t.Fatal(err)
		}
	}
	var direct, remote []store.Info
	gather := func(into *[]store.Info) func(store.Info) error {
		return func(i store.Info) error { *into = append(*into, i); return nil }
	}
	if err := errors.Join(mem.Walk(ctx, gather(&direct)), c.Walk(ctx, gather(&remote))); err != nil {
		t.Fatal(err)
	}
	if len(remote) != images || len(direct) != images {
		t.Fatalf("%d and %d objects, want %d", len(remote), len(direct), images)
	}
	for i := range direct {
		if !direct[i].Created.Equal(remote[i].Created) {
			t.Fatalf("%v arrives as %v", direct[i].Created, remote[i].Created)
		}
		remote[i].Created = direct[i].Created
		if direct[i] != remote[i] {
			t.Fatalf("%+v arrives as %+v", direct[i], remote[i])
		}
	}
	children, err := c.Children(ctx, parent.ID)
	if err != nil || len(children) != images-1 {
		t.Errorf("%d children, %v; want %d", len(children), err, images-1)
	}
}

// TestCallsWithinWalk: the walk must not hold the store while the reader works.
func TestCallsWithinWalk(t *testing.T) {
	ctx := t.Context()
	c, _ := serve(t, memstore.New())
	for i := range 2 * pageItems {
		if _, err := c.Create(ctx, store.Spec{Name: fmt.Sprint("img-", i), Size: store.Block}); err != nil {
			t.Fatal(err)
		}
	}
	seen := 0
	err := c.Walk(ctx, func(i store.Info) error { seen++; return c.Remove(ctx, i.ID) })
	if err != nil || seen != 2*pageItems {
		t.Errorf("%d objects seen and removed, %v", seen, err)
	}
	enough := errors.New("enough")
	if _, err := c.Create(ctx, store.Spec{Name: "last", Size: store.Block}); err != nil {
		t.Fatal(err)
	}
	if err := c.Walk(ctx, func(store.Info) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("the walk answers %v, want what its function said", err)
	}
}

// scripted answers some methods in its own way.
type scripted struct {
	store.Full
	stat     func(store.ID) (store.Info, error)
	start    func() (store.Job, error)
	watch    func(context.Context, func(store.Job) error) error
	flatten  func(context.Context) error
	problems []store.Problem
}

func (s *scripted) Stat(_ context.Context, id store.ID) (store.Info, error) { return s.stat(id) }

func (s *scripted) StartFlatten(context.Context, store.ID) (store.Job, error) { return s.start() }

func (s *scripted) Flatten(ctx context.Context, _ store.ID) error { return s.flatten(ctx) }

func (s *scripted) WatchJob(ctx context.Context, _ string, fn func(store.Job) error) error {
	return s.watch(ctx, fn)
}

func (s *scripted) Check(context.Context, bool) ([]store.Problem, error) { return s.problems, nil }

func TestPanicEndsOneRequest(t *testing.T) {
	s := &scripted{Full: memstore.New(), stat: func(store.ID) (store.Info, error) { panic("boom") }}
	s.watch = func(context.Context, func(store.Job) error) error { panic("bang") }
	c, log := serve(t, s)
	if _, err := c.Stat(t.Context(), store.NewID()); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("stat answers %v", err)
	}
	if err := c.WatchJob(t.Context(), "x", func(store.Job) error { return nil }); err == nil || !strings.Contains(err.Error(), "bang") {
		t.Errorf("watch answers %v", err)
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("the server is gone: %v", err)
	}
	if text := log.String(); strings.Count(text, "panic: b") != 2 || !strings.Contains(text, "rpc_test.go") {
		t.Errorf("the log does not tell of the panics and their stacks:\n%s", text)
	}
}

func TestFlattenStreamsProgressAndItsError(t *testing.T) {
	watched := make(chan struct{})
	s := &scripted{Full: memstore.New()}
	s.start = func() (store.Job, error) {
		return store.Job{ID: "j", Kind: store.JobFlatten, State: store.JobQueued, Total: 100}, nil
	}
	s.watch = func(ctx context.Context, fn func(store.Job) error) error {
		err := fn(store.Job{ID: "j", State: store.JobRunning, Done: 42, Total: 100, Copied: 7})
		close(watched)
		<-ctx.Done()
		return errors.Join(err, ctx.Err())
	}
	s.flatten = func(context.Context) error {
		<-watched
		return fmt.Errorf("flatten img: %w", store.ErrNoSpace)
	}
	c, _ := serve(t, s)
	var seen []store.Job
	err := c.FlattenProgress(t.Context(), store.NewID(), func(j store.Job) { seen = append(seen, j) })
	if !errors.Is(err, store.ErrNoSpace) || err.Error() != "flatten img: no space left in the store" {
		t.Errorf("flatten answers %v", err)
	}
	if len(seen) != 2 || seen[0].State != store.JobQueued || seen[1].Done != 42 || seen[1].Copied != 7 {
		t.Errorf("progress was %+v", seen)
	}
}

// TestCancelReachesTheStore: a caller that goes away ends the wait in the store.
func TestCancelReachesTheStore(t *testing.T) {
	ended, inside := make(chan error, 1), make(chan struct{})
	s := &scripted{Full: memstore.New(), start: func() (store.Job, error) { return store.Job{ID: "j"}, nil }}
	s.watch = func(ctx context.Context, _ func(store.Job) error) error { <-ctx.Done(); return ctx.Err() }
	s.flatten = func(ctx context.Context) error {
		close(inside)
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}
	c, _ := serve(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-inside; cancel() }()
	if err := c.Flatten(ctx, store.NewID()); !errors.Is(err, context.Canceled) {
		t.Errorf("flatten answers %v", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the store sees %v", err)
	}
}

func TestTokensAreNotLogged(t *testing.T) {
	c, log := serve(t, memstore.New())
	img, err := c.Create(t.Context(), store.Spec{Name: "img", Size: store.Block})
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Publish(t.Context(), img.ID, "node-a", store.AccessWrite)
	if err != nil || len(p.Token) != 32 {
		t.Fatalf("publication %+v, %v", p, err)
	}
	if _, err := c.Publish(t.Context(), img.ID, "node-b", store.AccessWrite); !errors.Is(err, store.ErrInUse) {
		t.Errorf("second node: %v", err)
	}
	if text := log.String(); strings.Contains(text, p.Token) || !strings.Contains(text, "Publish") {
		t.Errorf("the log lacks the request or holds its token:\n%s", text)
	}
}

func TestRequestsAreBounded(t *testing.T) {
	c, _ := serve(t, memstore.New())
	_, err := c.Create(t.Context(), store.Spec{Name: strings.Repeat("n", 2*maxRequest), Size: store.Block})
	if err == nil {
		t.Error("a name of 128 KiB was accepted")
	}
	_, err = c.Create(t.Context(), store.Spec{Name: "bad\xffname", Size: store.Block})
	if !errors.Is(err, store.ErrInvalid) {
		t.Errorf("a name that is not UTF-8: %v", err)
	}
	if _, err := c.Lookup(t.Context(), "bad\xff"); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("a reference that is not UTF-8: %v", err)
	}
	for i, bs := range []int{1 << 32, 1<<32 + 4096, -1} {
		spec := store.Spec{Name: fmt.Sprint("img-", i), Size: store.Block, BlockSize: bs}
		if _, err := c.Create(t.Context(), spec); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("block size %d: %v", bs, err)
		}
	}
	if err := c.Walk(t.Context(), func(i store.Info) error { return fmt.Errorf("%s was created", i.Name) }); err != nil {
		t.Error(err)
	}
}

func TestManyProblemsArrive(t *testing.T) {
	s := &scripted{Full: memstore.New()}
	for i := range 2*pageItems + 1 {
		s.problems = append(s.problems, store.Problem{Object: fmt.Sprint("img-", i), Text: "bad", Harmless: i%2 == 0})
	}
	c, _ := serve(t, s)
	got, err := c.Check(t.Context(), true)
	if err != nil || len(got) != len(s.problems) || got[len(got)-1] != s.problems[len(got)-1] {
		t.Errorf("%d problems, %v; want %d", len(got), err, len(s.problems))
	}
}

func TestUnreachableStoreIsUnavailable(t *testing.T) {
	dir := t.TempDir()
	c, err := Dial(filepath.Join(dir, "none.sock"), DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Lookup(t.Context(), "img")
	if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "none.sock") {
		t.Errorf("no store listens: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	if _, err := c.Lookup(t.Context(), "img"); !errors.Is(err, store.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}
