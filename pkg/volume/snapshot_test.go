package volume_test

import (
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/pool/pooltest"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/volume"
)

func TestSnapshot(t *testing.T) {
	r := newRig(t, 3)
	ctx := t.Context()
	v, w := r.create(empty("v")), r.create(empty("w"))
	r.write(v, 0, []byte("then"))
	s, err := r.svc.CreateSnapshot(ctx, "s", v.ID)
	if err != nil || s.Volume != v.ID || s.Info.Size != v.Info.Size || len(s.ID) > 128 {
		t.Fatalf("%+v, %v", s, err)
	}
	r.write(v, 0, []byte("now!"))
	r.restart(pool.Settings{})
	if again, err := r.svc.CreateSnapshot(ctx, "s", v.ID); err != nil || again != s {
		t.Errorf("%+v, %v", again, err)
	}
	_, err = r.svc.CreateSnapshot(ctx, "s", w.ID)
	r.wantErr(err, store.ErrConflict, "snapshot s")
	_, err = r.svc.CreateSnapshot(ctx, "", v.ID)
	r.wantErr(err, store.ErrInvalid, "")
	for _, id := range []string{"nonsense", strings.Replace(v.ID, string(v.Info.ID), string(store.NewID()), 1)} {
		_, err = r.svc.CreateSnapshot(ctx, "t", id)
		r.wantErr(err, store.ErrNotFound, "")
	}
	if got, err := r.svc.GetSnapshot(ctx, s.ID); err != nil || got != s {
		t.Errorf("%+v, %v", got, err)
	}
	// It outlives its volume: it is found, answered again, restored and removed.
	if err := r.svc.Delete(ctx, v.ID); err != nil {
		t.Fatal(err)
	}
	if again, err := r.svc.CreateSnapshot(ctx, "s", v.ID); err != nil || again.ID != s.ID {
		t.Errorf("%+v, %v", again, err)
	}
	r.wantData(r.create(volume.CreateRequest{Name: "x", Snapshot: s.ID}), 0, []byte("then"))
	for range 2 {
		if err := r.svc.DeleteSnapshot(ctx, s.ID); err != nil {
			t.Error(err)
		}
	}
	if _, err := r.svc.GetSnapshot(ctx, s.ID); err == nil {
		t.Error("it is still there")
	}
	if err := r.svc.DeleteSnapshot(ctx, "nonsense"); err != nil {
		t.Error(err)
	}
	r.wantClean(2, 0)
	if _, err := r.svc.CreateSnapshot(ctx, "s", w.ID); err != nil { // the name is free
		t.Error(err)
	}
}

// TestSnapshotOfTheirs: a snapshot that was not made here has its name; ours with the same
// name is refused and leaves no note.
func TestSnapshotOfTheirs(t *testing.T) {
	r := newRig(t, 1)
	v := r.create(empty("v"))
	if _, err := r.stores["a:1"].Snapshot(t.Context(), v.Info.ID, "s"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := r.svc.CreateSnapshot(t.Context(), "s", v.ID)
		r.wantErr(err, store.ErrConflict, "")
	}
	if err := r.stores["a:1"].Notes(t.Context(), "snap/", func(k, v string) error { t.Errorf("%s = %s", k, v); return nil }); err != nil {
		t.Error(err)
	}
}

// TestSnapshotInterrupted: a snapshot, and its removal, that stopped after any step are
// completed by their repetition; the moment frozen stays the first one.
func TestSnapshotInterrupted(t *testing.T) {
	for step := range 3 {
		r := newRig(t, 2)
		v := r.create(empty("v"))
		changes := 0
		lose := func(_, op string) pooltest.Fate {
			if op == "SwapNote" || op == "Snapshot" || op == "Remove" {
				if changes++; changes == step+1 {
					return pooltest.Lose
				}
			}
			return pooltest.Pass
		}
		r.net.SetFate(lose)
		r.write(v, 0, []byte("first"))
		_, err := r.svc.CreateSnapshot(t.Context(), "s", v.ID)
		r.wantErr(err, store.ErrUnavailable, "lost")
		r.restart(pool.Settings{})
		r.write(v, 0, []byte("later"))
		s, err := r.svc.CreateSnapshot(t.Context(), "s", v.ID)
		if err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		if step > 0 {
			r.wantData(r.create(volume.CreateRequest{Name: "x", Snapshot: s.ID}), 0, []byte("first"))
		} else {
			r.create(volume.CreateRequest{Name: "x", Snapshot: s.ID})
		}
		r.wantClean(2, 1)
		changes = 0
		if err := r.svc.DeleteSnapshot(t.Context(), s.ID); (err == nil) != (step == 2) {
			t.Errorf("step %d: %v", step, err)
		}
		if err := r.svc.DeleteSnapshot(t.Context(), s.ID); err != nil {
			t.Errorf("step %d: %v", step, err)
		}
		r.wantClean(2, 0)
	}
}

// TestSnapshotFull: without room there is neither a snapshot nor a note of it.
func TestSnapshotFull(t *testing.T) {
	r := newRig(t, 1)
	v := r.create(empty("v"))
	r.net.SetFate(func(_, op string) pooltest.Fate {
		if op == "Snapshot" {
			return pooltest.Full
		}
		return pooltest.Pass
	})
	_, err := r.svc.CreateSnapshot(t.Context(), "s", v.ID)
	r.wantErr(err, store.ErrNoSpace, "snapshot s")
	r.wantClean(1, 0)
}
