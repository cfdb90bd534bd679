package export

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
)

const imageSize = 4 << 20

// source is a memstore whose devices can be watched and delayed.
type source struct {
	*memstore.Store
	opened, closed atomic.Int64
	active         atomic.Int64
	onWrite        func(p []byte, off int64) error
	onModify       func() error
}

func (s *source) Modify(ctx context.Context, id store.ID, c store.Change) (store.Info, error) {
	if s.onModify != nil {
		if err := s.onModify(); err != nil {
			return store.Info{}, err
		}
	}
	return s.Store.Modify(ctx, id, c)
}

func (s *source) Open(ctx context.Context, id store.ID) (store.Device, error) {
	d, err := s.Store.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	s.opened.Add(1)
	return &watched{d, s}, nil
}

type watched struct {
	store.Device
	s *source
}

func (w *watched) WriteAt(p []byte, off int64) (int, error) {
	w.s.active.Add(1)
	defer w.s.active.Add(-1)
	if w.s.onWrite != nil {
		if err := w.s.onWrite(p, off); err != nil {
			return 0, err
		}
	}
	return w.Device.WriteAt(p, off)
}

func (w *watched) Close() error {
	w.s.closed.Add(1)
	return w.Device.Close()
}

// rig serves one image named "img" on a unix socket and on TCP.
type rig struct {
	t        *testing.T
	src      *source
	reg      *Registry
	srv      *nbd.Server
	img      store.Info
	unix     string
	tcp      string
	patience context.Context
}

func newRig(t *testing.T, cfg Config) *rig {
	t.Helper()
	if cfg.Patience == 0 {
		cfg.Patience = 50 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	r := &rig{t: t, src: &source{Store: memstore.New()}, unix: filepath.Join(t.TempDir(), "s"), patience: ctx}
	r.img = r.create("img")
	r.reg = New(r.src, cfg)
	r.srv = nbd.NewServer(r.reg, nbd.Config{})
	local, err := net.Listen("unix", r.unix)
	if err != nil {
		t.Fatal(err)
	}
	remote, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.tcp = remote.Addr().String()
	ended := make(chan error, 2)
	for _, l := range []net.Listener{local, remote} {
		go func() { ended <- r.srv.Serve(ctx, l) }()
	}
	t.Cleanup(func() {
		defer cancel()
		if err := r.srv.Close(ctx); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := <-ended; !errors.Is(err, nbd.ErrServerClosed) {
				t.Error(err)
			}
		}
		if o, c := r.src.opened.Load(), r.src.closed.Load(); o != c {
			t.Errorf("devices were opened %d times and closed %d times", o, c)
		}
		for id, o := range r.reg.objects {
			if o.users != 0 || len(o.plain) != 0 {
				t.Errorf("object %s is left with %+v", id, o)
			}
		}
	})
	return r
}

func (r *rig) create(name string) store.Info {
	r.t.Helper()
	i, err := r.src.Create(context.Background(), store.Spec{Name: name, Size: imageSize, BlockSize: 512})
	if err != nil {
		r.t.Fatal(err)
	}
	return i
}

func (r *rig) snapshot(name string) store.Info {
	r.t.Helper()
	i, err := r.src.Snapshot(context.Background(), r.img.ID, name)
	if err != nil {
		r.t.Fatal(err)
	}
	return i
}

// try connects over the unix socket.
func (r *rig) try(name string, contexts ...string) (*nbd.Client, error) {
	d := nbd.Dialer{Contexts: append(contexts, nbd.ContextAllocation), Label: "the export"}
	c, err := d.Dial(r.patience, nbd.Target{Network: "unix", Address: r.unix, Export: name}.String())
	if err == nil {
		r.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func (r *rig) dial(name string, contexts ...string) *nbd.Client {
	r.t.Helper()
	c, err := r.try(name, contexts...)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// from connects over TCP as another host.
func (r *rig) from(host, name string) (*nbd.Client, error) {
	nd := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(host)}}
	nc, err := nd.DialContext(r.patience, "tcp", r.tcp)
	if err != nil {
		return nil, err
	}
	c, err := new(nbd.Dialer).Start(r.patience, nc, name)
	if err != nil {
		nc.Close()
		return nil, err
	}
	r.t.Cleanup(func() { c.Close() })
	return c, nil
}

func (r *rig) publish(node string, access store.Access) store.Publication {
	r.t.Helper()
	p, err := r.reg.Publish(r.patience, r.img.ID, node, access)
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// wantRefusal checks that the server refused for the reason and said so.
func wantRefusal(t *testing.T, err error, why nbd.Reason, text string) {
	t.Helper()
	var refusal *nbd.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != why || refusal.Message != text {
		t.Errorf("got %v, want a refusal %#x: %s", err, uint32(why), text)
	}
}

// seed is printed, and taken from STRATA_SEED if that is set.
func seed(t *testing.T) *rand.Rand {
	s := uint64(time.Now().UnixNano())
	if env := os.Getenv("STRATA_SEED"); env != "" {
		n, err := strconv.ParseUint(env, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		s = n
	}
	t.Logf("replay with STRATA_SEED=%d", s)
	return rand.New(rand.NewPCG(s, 0))
}

func wait(d time.Duration) { <-time.After(d) }
