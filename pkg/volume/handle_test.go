package volume_test

import (
	"errors"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/volume"
)

// TestHandle: what was not made by a controller is a volume of it by its handle.
func TestHandle(t *testing.T) {
	r := newRig(t, 2)
	ctx := t.Context()
	v := r.create(empty("v"))
	of := func(i store.Info, addr string) string {
		t.Helper()
		h, err := volume.Handle("p", i, r.uuid[addr])
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	for addr, s := range r.stores {
		if i, err := s.Lookup(ctx, "v"); err == nil && of(i, addr) != v.ID {
			t.Errorf("the handle is %s, the id %s", of(i, addr), v.ID)
		}
	}
	s := r.stores["a:1"]
	made, err := s.Create(ctx, store.Spec{Name: "by hand", Size: mib})
	if err != nil {
		t.Fatal(err)
	}
	snap, err := s.Snapshot(ctx, made.ID, "s")
	if err != nil {
		t.Fatal(err)
	}
	p, err := r.svc.Publish(ctx, volume.PublishRequest{Volume: of(made, "a:1"), Node: "n1", Access: store.AccessWrite})
	if err != nil || p.Target != made.ID {
		t.Errorf("it is published as %+v, %v", p, err)
	}
	req := empty("from it")
	req.Snapshot = of(snap, "a:1")
	if got := r.create(req); got.Info.Parent != made.ID {
		t.Errorf("from its snapshot there is %+v", got)
	}
	if _, err := volume.Handle("Not a name", made, r.uuid["a:1"]); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("a pool that cannot be gives %v", err)
	}
}
