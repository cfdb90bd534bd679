package volume_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/volume"
)

// TestListPages: pages join to the whole, in one order, whatever comes and goes between.
func TestListPages(t *testing.T) {
	r := newRig(t, 3)
	ctx := t.Context()
	stay := make(map[string]bool)
	var all []string
	for i := range 20 {
		v := r.create(empty(fmt.Sprintf("v%d", i)))
		all = append(all, v.ID)
		stay[v.ID] = true
	}
	if _, err := r.svc.Publish(ctx, volume.PublishRequest{Volume: all[3], Node: "n1", Access: store.AccessWrite}); err != nil {
		t.Fatal(err)
	}
	whole, next, err := r.svc.List(ctx, volume.Page{})
	if err != nil || len(whole) != 20 || next != "" {
		t.Fatalf("%d volumes, %q, %v", len(whole), next, err)
	}
	if i := slices.IndexFunc(whole, func(v volume.Volume) bool { return v.ID == all[3] }); i < 0 || !slices.Equal(whole[i].Nodes, []string{"n1"}) {
		t.Errorf("published nodes are not told")
	}
	seen := make(map[string]int)
	for page := (volume.Page{Max: 3}); ; {
		part, next, err := r.svc.List(ctx, page)
		if err != nil || len(part) > 3 {
			t.Fatalf("%d volumes, %v", len(part), err)
		}
		for _, v := range part {
			seen[v.ID]++
		}
		if next == "" {
			break
		}
		last := part[len(part)-1] // gone when the next page is asked for
		if last.ID != all[3] {
			if err := r.svc.Delete(ctx, last.ID); err != nil {
				t.Fatal(err)
			}
			delete(stay, last.ID)
		}
		page.Token = next
	}
	for id := range stay {
		if seen[id] != 1 {
			t.Errorf("%s came %d times", id, seen[id])
		}
	}
}

func TestListRefuses(t *testing.T) {
	r := newRig(t, 1)
	v := r.create(empty("v"))
	for _, token := range []string{"x", v.ID, "s1:p:" + string(v.Info.ID), "v1:p:", "v1::" + string(v.Info.ID), "v1:p"} {
		_, _, err := r.svc.List(t.Context(), volume.Page{Token: token})
		r.wantErr(err, volume.ErrToken, "")
	}
	_, _, err := r.svc.List(t.Context(), volume.Page{Max: -1})
	r.wantErr(err, store.ErrInvalid, "")
	_, _, err = r.svc.ListSnapshots(t.Context(), "", volume.Page{Token: "v1:p:" + string(v.Info.ID)})
	r.wantErr(err, volume.ErrToken, "")
}

func TestListSnapshots(t *testing.T) {
	r := newRig(t, 2)
	ctx := t.Context()
	v, w := r.create(empty("v")), r.create(empty("w"))
	for i := range 6 {
		from := v
		if i%3 == 0 {
			from = w
		}
		if _, err := r.svc.CreateSnapshot(ctx, fmt.Sprintf("s%d", i), from.ID); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		of   string
		want int
	}{{"", 6}, {v.ID, 4}, {w.ID, 2}, {"nonsense", 0}, {strings.Replace(v.ID, string(v.Info.ID), string(store.NewID()), 1), 0}} {
		got, _, err := r.svc.ListSnapshots(ctx, c.of, volume.Page{})
		if err != nil || len(got) != c.want {
			t.Errorf("of %q: %d, %v", c.of, len(got), err)
		}
	}
	if err := r.svc.Delete(ctx, v.ID); err != nil {
		t.Fatal(err)
	}
	if got, _, err := r.svc.ListSnapshots(ctx, v.ID, volume.Page{}); err != nil || len(got) != 4 {
		t.Errorf("after the volume is gone: %d, %v", len(got), err)
	}
	one, next, err := r.svc.ListSnapshots(ctx, "", volume.Page{Max: 1})
	if err != nil || len(one) != 1 || next == "" {
		t.Fatalf("%v, %q, %v", one, next, err)
	}
	rest, next, err := r.svc.ListSnapshots(ctx, "", volume.Page{Token: next})
	if err != nil || len(rest) != 5 || next != "" || rest[0].ID == one[0].ID {
		t.Errorf("%d, %q, %v", len(rest), next, err)
	}
}

func TestCapacity(t *testing.T) {
	r := newRig(t, 2)
	r.net.SetFree("a:1", 100*mib+1)
	r.net.SetFree("b:1", 300*mib)
	for _, name := range []string{"", "p"} {
		c, err := r.svc.Capacity(t.Context(), name)
		if err != nil || c.Free != 400*mib+1 || c.Largest != 300*mib {
			t.Errorf("%+v, %v", c, err)
		}
	}
	_, err := r.svc.Capacity(t.Context(), "q")
	r.wantErr(err, store.ErrInvalid, `pool "q"`)
	r.net.SetDown("b:1", true)
	if c, err := r.svc.Capacity(t.Context(), ""); err != nil || c.Largest != 100*mib {
		t.Errorf("%+v, %v", c, err)
	}
	r.net.SetDown("a:1", true)
	_, err = r.svc.Capacity(t.Context(), "")
	r.wantErr(err, store.ErrUnavailable, "")
}

func TestExpand(t *testing.T) {
	r := newRig(t, 1)
	ctx := t.Context()
	v := r.create(empty("v"))
	for _, c := range []struct{ required, limit, want int64 }{
		{4 * mib, 0, 4 * mib}, {mib, 0, 4 * mib}, {5*mib + 1, 0, 5*mib + store.Block}, {6 * mib, 6 * mib, 6 * mib}, {0, 7 * mib, 6 * mib},
	} {
		got, err := r.svc.Expand(ctx, v.ID, c.required, c.limit)
		if err != nil || got.Info.Size != c.want {
			t.Errorf("%+v: %d, %v", c, got.Info.Size, err)
		}
	}
	for _, c := range []struct {
		required, limit int64
		is              error
	}{{0, 0, store.ErrInvalid}, {-1, 0, store.ErrInvalid}, {8, 7, store.ErrInvalid}, {store.MaxSize + 1, 0, store.ErrRange}, {8*mib + 1, 8*mib + 2, store.ErrRange}, {mib, 2 * mib, store.ErrRange}} {
		_, err := r.svc.Expand(ctx, v.ID, c.required, c.limit)
		r.wantErr(err, c.is, "")
	}
	_, err := r.svc.Expand(ctx, "nonsense", mib, 0)
	r.wantErr(err, store.ErrNotFound, "")
}

func TestModify(t *testing.T) {
	r := newRig(t, 1)
	r.restart(pool.Settings{Policy: store.Policy{Soft: 4, Hard: 10}})
	ctx := t.Context()
	v := r.create(empty("v"))
	for _, c := range []struct {
		t      volume.Tuning
		is     error
		policy store.Policy
		limits store.Limits
	}{
		{volume.Tuning{IOPS: ptr(int64(100))}, nil, store.Policy{Soft: 4, Hard: 10}, store.Limits{IOPS: 100}},
		{volume.Tuning{Bandwidth: ptr(int64(5))}, nil, store.Policy{Soft: 4, Hard: 10}, store.Limits{IOPS: 100, Bandwidth: 5}},
		{volume.Tuning{Soft: ptr(11), IOPS: ptr(int64(7))}, store.ErrInvalid, store.Policy{Soft: 4, Hard: 10}, store.Limits{IOPS: 100, Bandwidth: 5}},
		{volume.Tuning{Soft: ptr(11), Hard: ptr(12), IOPS: ptr(int64(0))}, nil, store.Policy{Soft: 11, Hard: 12}, store.Limits{Bandwidth: 5}},
		{volume.Tuning{Bandwidth: ptr(int64(-1))}, store.ErrInvalid, store.Policy{Soft: 11, Hard: 12}, store.Limits{Bandwidth: 5}},
		{volume.Tuning{}, nil, store.Policy{Soft: 11, Hard: 12}, store.Limits{Bandwidth: 5}},
	} {
		if err := r.svc.Modify(ctx, v.ID, c.t); c.is == nil && err != nil || c.is != nil {
			r.wantErr(err, c.is, "")
		}
		got, err := r.svc.Get(ctx, v.ID)
		if err != nil || got.Info.Policy != c.policy || got.Info.Limits != c.limits {
			t.Errorf("%+v: %+v %+v, %v", c.t, got.Info.Policy, got.Info.Limits, err)
		}
	}
	r.wantErr(r.svc.Modify(ctx, "nonsense", volume.Tuning{}), store.ErrNotFound, "")
}
