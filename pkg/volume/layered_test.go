package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/app"
	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
	"github.com/strata-csi/strata/pkg/volume"
)

// real is a controller over stores of the embedded engine, each served over its socket.
type real struct {
	t      *testing.T
	svc    *volume.Service
	stores []*storeapi.Client
	events chan volume.Event // the first ones, as many as fit
}

// newReal makes one store for each name of a pool; the first pool is the default.
func newReal(t *testing.T, names ...string) *real {
	t.Helper()
	r := &real{t: t, events: make(chan volume.Event, 1000)}
	var pools []pool.Settings
	for i, name := range names {
		if len(pools) == 0 || pools[len(pools)-1].Name != name {
			pools = append(pools, pool.Settings{Name: name, Default: i == 0})
		}
		settings := &pools[len(pools)-1]
		data := filepath.Join(t.TempDir(), fmt.Sprint(i))
		serveStore(t, data)
		settings.Members = append(settings.Members, "unix:"+filepath.Join(data, "api.sock"))
		c, err := storeapi.Dial(data, storeapi.DialOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		r.stores = append(r.stores, c)
	}
	set, err := pool.Open(pool.Config{Pools: pools}, pool.Options{
		Dial: func(addr string) (pool.Remote, error) { return storeapi.Dial(addr, storeapi.DialOptions{}) },
	})
	if err != nil {
		t.Fatal(err)
	}
	r.svc = volume.New(set, volume.Options{Event: func(e volume.Event) {
		select {
		case r.events <- e:
		default:
		}
	}})
	t.Cleanup(func() {
		if err := errors.Join(r.svc.Close(), set.Close()); err != nil {
			t.Error(err)
		}
	})
	return r
}

// serveStore serves a new store until the test ends.
func serveStore(t *testing.T, data string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- app.Store(ctx, app.Config{Data: data, Init: true, AllowUnsafe: true, Ready: func(app.Serving) { close(ready) }})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("store: %v", err)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
}

// again repeats a request while it is to be repeated.
func again(t *testing.T, do func() error) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		err := do()
		if !errors.Is(err, store.ErrBusy) {
			return err
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			return err
		}
	}
}

// wantEmpty: nothing is left in the stores, and they are whole.
func (r *real) wantEmpty() {
	r.t.Helper()
	ctx := r.t.Context()
	for _, s := range r.stores {
		err := s.Walk(ctx, func(i store.Info) error { r.t.Errorf("%s %s is left", i.Kind, i.Ref()); return nil })
		if err != nil {
			r.t.Error(err)
		}
		err = s.Notes(ctx, "", func(k, v string) error {
			if k != "pool" && !strings.HasPrefix(k, "member/") {
				r.t.Errorf("note %s = %s is left", k, v)
			}
			return nil
		})
		if err != nil {
			r.t.Error(err)
		}
		problems, err := s.Check(ctx, true)
		if err != nil || len(problems) > 0 {
			r.t.Errorf("check: %v, %v", problems, err)
		}
	}
}

// family is what the parallel requests share: ids to clone, freeze and delete.
type family struct {
	mu        sync.Mutex
	rnd       *rand.Rand
	volumes   []string
	snapshots []string
}

func (f *family) add(list *[]string, id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*list = append(*list, id)
}

// pick returns one of the ids; with take it is the picker's alone.
func (f *family) pick(list *[]string, take bool) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(*list) == 0 {
		return ""
	}
	i := f.rnd.IntN(len(*list))
	id := (*list)[i]
	if take {
		*list = append((*list)[:i], (*list)[i+1:]...)
	}
	return id
}

// step does one request about related objects. A source that is deleted meanwhile is the
// only failure that is allowed.
func (r *real) step(f *family, name string, what int) error {
	ctx := r.t.Context()
	var source volume.CreateRequest
	switch what {
	case 0:
		source = volume.CreateRequest{Required: 16 * mib}
	case 1:
		source = volume.CreateRequest{Volume: f.pick(&f.volumes, false)}
	case 2:
		source = volume.CreateRequest{Snapshot: f.pick(&f.snapshots, false)}
	case 3:
		of := f.pick(&f.volumes, false)
		return again(r.t, func() error {
			s, err := r.svc.CreateSnapshot(ctx, name, of)
			if err == nil {
				f.add(&f.snapshots, s.ID)
			}
			return err
		})
	case 4:
		id := f.pick(&f.volumes, true)
		return again(r.t, func() error { return r.svc.Delete(ctx, id) })
	default:
		id := f.pick(&f.snapshots, true)
		return again(r.t, func() error { return r.svc.DeleteSnapshot(ctx, id) })
	}
	source.Name, source.Tuning = name, volume.Tuning{Soft: ptr(3), Hard: ptr(6)}
	return again(r.t, func() error {
		v, err := r.svc.Create(ctx, source)
		if err == nil {
			f.add(&f.volumes, v.ID)
		}
		return err
	})
}

// TestParallel: creates, clones, snapshots and deletes of related objects, fifty of each
// at once, over two real stores: no wrong error, nothing left, the stores whole.
func TestParallel(t *testing.T) {
	r := newReal(t, "p", "p")
	f := &family{rnd: rand.New(rand.NewPCG(seed(t), 7))}
	for i := range 8 {
		if err := r.step(f, fmt.Sprintf("base%d", i), 0); err != nil {
			t.Fatal(err)
		}
		if err := r.step(f, fmt.Sprintf("base%d", i), 3); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for i := range 50 {
		for what := range 6 {
			wg.Go(func() {
				err := r.step(f, fmt.Sprintf("o%d-%d", what, i), what)
				if err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Errorf("step %d of %d: %v", what, i, err)
				}
			})
		}
	}
	wg.Wait()
	list, _, err := r.svc.List(t.Context(), volume.Page{})
	if err != nil || len(list) != len(f.volumes) {
		t.Errorf("%d volumes are listed, %d are there, %v", len(list), len(f.volumes), err)
	}
	for id := f.pick(&f.volumes, true); id != ""; id = f.pick(&f.volumes, true) {
		if err := again(t, func() error { return r.svc.Delete(t.Context(), id) }); err != nil {
			t.Error(err)
		}
	}
	for id := f.pick(&f.snapshots, true); id != ""; id = f.pick(&f.snapshots, true) {
		if err := again(t, func() error { return r.svc.DeleteSnapshot(t.Context(), id) }); err != nil {
			t.Error(err)
		}
	}
	r.wantEmpty()
}

// TestCopyBetweenPools: a volume of a source in another pool is a copy over the network,
// equal and sparse, and stands alone.
func TestCopyBetweenPools(t *testing.T) {
	r := newReal(t, "p", "q")
	ctx := t.Context()
	src, err := r.svc.Create(ctx, volume.CreateRequest{Name: "src", Required: 64 * mib})
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 3*mib)
	rand.NewChaCha8([32]byte{1}).Read(want)
	d, err := r.stores[0].Open(ctx, src.Info.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{0, 30*mib + 12288, 61 * mib} {
		if _, err := d.WriteAt(want, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(d.Flush(), d.Close()); err != nil {
		t.Fatal(err)
	}
	var v volume.Volume
	err = again(t, func() error {
		v, err = r.svc.Create(ctx, volume.CreateRequest{Name: "copy", Pool: "q", Volume: src.ID, Required: 80 * mib})
		return err
	})
	if err != nil || v.Pool != "q" || v.Info.Size != 80*mib || v.Info.Parent != "" || v.Info.Format != store.FormatUnknown {
		t.Fatalf("%+v, %v", v, err)
	}
	_, err = r.svc.Create(ctx, volume.CreateRequest{Name: "src", Pool: "q", Required: 64 * mib})
	if !errors.Is(err, store.ErrConflict) {
		t.Errorf("a second volume of the name in another pool: %v", err)
	}
	if err := r.svc.Delete(ctx, src.ID); err != nil {
		t.Fatal(err)
	}
	if u, err := r.stores[1].Usage(ctx, v.Info.ID); err != nil || u.Own > 10*mib {
		t.Errorf("%+v, %v", u, err)
	}
	if d, err = r.stores[1].Open(ctx, v.Info.ID); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	for _, off := range []int64{0, 30*mib + 12288, 61 * mib} {
		if _, err := d.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
			t.Errorf("other data at %d, %v", off, err)
		}
	}
	if _, err := d.ReadAt(got, 70*mib); err != nil || !bytes.Equal(got, make([]byte, len(got))) {
		t.Errorf("data beyond the source, %v", err)
	}
	if err := errors.Join(d.Close(), again(t, func() error { return r.svc.Delete(ctx, v.ID) })); err != nil {
		t.Error(err)
	}
	r.wantEmpty()
}

// TestDeepClonesAreTold: whoever watches flattens hears of a clone above its soft limit,
// and of no other.
func TestDeepClonesAreTold(t *testing.T) {
	r := newReal(t, "p")
	create := func(req volume.CreateRequest) volume.Volume {
		t.Helper()
		v, err := r.svc.Create(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	tuning := volume.Tuning{Soft: ptr(2), Hard: ptr(9)}
	v := create(volume.CreateRequest{Name: "v0", Required: 4 * mib, Tuning: tuning})
	for _, name := range []string{"v1", "v2"} {
		v = create(volume.CreateRequest{Name: name, Volume: v.ID})
	}
	for len(r.events) > 0 {
		t.Errorf("told of %+v", <-r.events)
	}
	v = create(volume.CreateRequest{Name: "v3", Volume: v.ID})
	select {
	case e := <-r.events:
		want := volume.Event{Kind: volume.Deepened, Pool: "p", Image: "v3", Store: v.Store, ID: v.Info.ID, Depth: 3, Soft: 2}
		if e != want {
			t.Errorf("told of %+v, want %+v", e, want)
		}
	default:
		t.Error("told of nothing")
	}
}
