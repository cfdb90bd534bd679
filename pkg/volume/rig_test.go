package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/pool/pooltest"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
	"github.com/strata-csi/strata/pkg/volume"
)

const mib = int64(1) << 20

// rig is a pool "p" of stores in memory, and a controller.
type rig struct {
	t      *testing.T
	net    *pooltest.Network
	stores map[string]*memstore.Store // by address
	uuid   map[string]string
	addr   map[string]string // by UUID
	svc    *volume.Service
	stop   func()
}

func newRig(t *testing.T, stores int) *rig {
	t.Helper()
	r := &rig{t: t, net: pooltest.New(), stores: make(map[string]*memstore.Store), uuid: make(map[string]string), addr: make(map[string]string)}
	for i := range stores {
		addr := fmt.Sprintf("%c:1", 'a'+i)
		s, uuid := r.net.Add(addr)
		r.stores[addr], r.uuid[addr], r.addr[uuid] = s, uuid, addr
		r.note(addr, "node/n1", `{"maxVolumes":0}`)
		r.note(addr, "node/n2", `{"maxVolumes":0}`)
	}
	r.restart(pool.Settings{})
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *rig) note(addr, key, value string) {
	r.t.Helper()
	if err := r.stores[addr].SwapNote(r.t.Context(), key, "", value); err != nil {
		r.t.Fatal(err)
	}
}

// restart replaces the controller by another one that knows nothing.
func (r *rig) restart(s pool.Settings) {
	if r.stop != nil {
		r.stop()
	}
	s.Name = "p"
	for addr := range r.stores {
		s.Members = append(s.Members, addr)
	}
	set := r.net.Pools(s)
	svc := volume.New(set, volume.Options{Stride: 2 * mib, Timeout: time.Minute})
	r.svc = svc
	r.stop = func() {
		if err := errors.Join(svc.Close(), set.Close()); err != nil {
			r.t.Error(err)
		}
	}
}

// create makes a volume, and waits for copies.
func (r *rig) create(req volume.CreateRequest) volume.Volume {
	r.t.Helper()
	v, err := r.insist(req)
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

// insist repeats a request as a provisioner does, as long as it is told to.
func (r *rig) insist(req volume.CreateRequest) (volume.Volume, error) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		v, err := r.svc.Create(r.t.Context(), req)
		if !errors.Is(err, store.ErrBusy) {
			return v, err
		}
		<-tick.C
	}
}

func empty(name string) volume.CreateRequest {
	return volume.CreateRequest{Name: name, Required: 4 * mib}
}

func (r *rig) wantErr(err error, is error, text string) {
	r.t.Helper()
	if !errors.Is(err, is) || !strings.Contains(fmt.Sprint(err), text) {
		r.t.Errorf("got %v\nwant %v, saying %q", err, is, text)
	}
}

func (r *rig) device(v volume.Volume) store.Device {
	r.t.Helper()
	d, err := r.stores[r.addr[v.Store]].Open(r.t.Context(), v.Info.ID)
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

func (r *rig) write(v volume.Volume, off int64, data []byte) {
	r.t.Helper()
	d := r.device(v)
	defer d.Close()
	if _, err := d.WriteAt(data, off); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) wantData(v volume.Volume, off int64, want []byte) {
	r.t.Helper()
	d := r.device(v)
	defer d.Close()
	got := make([]byte, len(want))
	if _, err := d.ReadAt(got, off); err != nil {
		r.t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		r.t.Errorf("%s: other data at %d", v.Info.Name, off)
	}
}

// images counts the images of that name in all stores.
func (r *rig) images(name string) int {
	r.t.Helper()
	count := 0
	for _, s := range r.stores {
		err := s.Walk(context.Background(), func(i store.Info) error {
			if i.Kind == store.KindImage && i.Name == name {
				count++
			}
			return nil
		})
		if err != nil {
			r.t.Fatal(err)
		}
	}
	return count
}

// wantClean: the stores hold so many images and snapshots, no notes but those of members
// and nodes, and nothing is wrong in them.
func (r *rig) wantClean(images, snapshots int) {
	r.t.Helper()
	ctx := context.Background()
	named := snapshots // each snapshot has its note
	for addr, s := range r.stores {
		problems, err := s.Check(ctx, true)
		if err != nil || len(problems) > 0 {
			r.t.Errorf("%s: %v, %v", addr, problems, err)
		}
		st, err := s.Status(ctx)
		if err != nil {
			r.t.Fatal(err)
		}
		images, snapshots = images-st.Images, snapshots-st.Snapshots
		err = s.Notes(ctx, "", func(k, v string) error {
			if strings.HasPrefix(k, "snap/") && named > 0 {
				named--
			} else if k != "pool" && !strings.HasPrefix(k, "member/") && !strings.HasPrefix(k, "node/") {
				r.t.Errorf("%s: note %s = %s is left", addr, k, v)
			}
			return nil
		})
		if err != nil {
			r.t.Fatal(err)
		}
	}
	if images != 0 || snapshots != 0 {
		r.t.Errorf("%d images and %d snapshots too few (or, negative, too many)", images, snapshots)
	}
}

func ptr[T any](v T) *T { return &v }
