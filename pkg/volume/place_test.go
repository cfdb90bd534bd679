package volume_test

import (
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/pool/pooltest"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/volume"
)

// spread counts, over many names, how many volumes each store gets.
func (r *rig) spread(names string, count int, distance func(node string) int) map[string]int {
	at := make(map[string]int)
	for i := range count {
		req := empty(fmt.Sprintf("%s%d", names, i))
		req.Distance = distance
		at[r.addr[r.create(req).Store]]++
	}
	return at
}

// by makes a distance of a table; nodes that are not in it are far away.
func by(table map[string]int) func(node string) int {
	return func(node string) int {
		if far, ok := table[node]; ok {
			return far
		}
		return 9
	}
}

// TestPlacement: stores with about as much room share volumes by their names; one with
// more room gets them all.
func TestPlacement(t *testing.T) {
	r := newRig(t, 3)
	if at := r.spread("even", 60, nil); at["a:1"] < 8 || at["b:1"] < 8 || at["c:1"] < 8 {
		t.Errorf("spread over equals: %v", at)
	}
	r.net.SetFree("a:1", 100*mib)
	r.net.SetFree("b:1", 400*mib)
	r.net.SetFree("c:1", 100*mib)
	if at := r.spread("room", 20, nil); at["b:1"] != 20 {
		t.Errorf("most room has b: %v", at)
	}
}

// TestNear: a volume goes to the nearest store that has room, however much others have; of
// equally near ones to that with most room; and where none is near, that is no error.
func TestNear(t *testing.T) {
	r := newRig(t, 4)
	for addr, node := range map[string]string{"a:1": "n1", "b:1": "n2", "c:1": "n2"} { // d:1 does not say
		r.net.SetNode(addr, node)
	}
	for i, addr := range []string{"a:1", "b:1", "c:1", "d:1"} {
		r.net.SetFree(addr, int64(100<<i)*mib)
	}
	for i, c := range []struct {
		distance map[string]int
		full     string
		want     string
	}{
		{map[string]int{"n1": 0}, "", "a:1"},
		{map[string]int{"n2": 0}, "", "c:1"},
		{map[string]int{"n1": 0, "n2": 1}, "", "a:1"},
		{map[string]int{"n1": 0, "n2": 1}, "a:1", "c:1"},
		{map[string]int{"n1": 0}, "a:1", "d:1"},
		{map[string]int{"n2": 0}, "c:1", "b:1"},
		{map[string]int{"n7": 0}, "", "d:1"},
		{map[string]int{"": 0}, "", "d:1"},
	} {
		if c.full != "" {
			r.net.SetFull(c.full, true)
		}
		if at := r.spread(fmt.Sprintf("v%d-", i), 8, by(c.distance)); at[c.want] != 8 {
			t.Errorf("%+v: %v", c, at)
		}
		if c.full != "" {
			r.net.SetFull(c.full, false)
		}
	}
	r.net.SetFree("a:1", 0)
	if at := r.spread("none", 8, by(map[string]int{"n1": 0})); at["d:1"] != 8 {
		t.Errorf("the near one says that it has nothing free: %v", at)
	}
}

// TestNearIsAWish: a clone stays with its source wherever it is wanted, and a request that
// is repeated with another wish gets the volume that there is.
func TestNearIsAWish(t *testing.T) {
	r := newRig(t, 2)
	r.net.SetNode("a:1", "n1")
	r.net.SetNode("b:1", "n2")
	on := func(name, node string) volume.CreateRequest {
		req := empty(name)
		req.Distance = by(map[string]int{node: 0})
		return req
	}
	src := r.create(on("src", "n1"))
	if r.addr[src.Store] != "a:1" {
		t.Fatalf("made on %s", r.addr[src.Store])
	}
	if again := r.create(on("src", "n2")); again.ID != src.ID {
		t.Errorf("%s became %s when it was wanted elsewhere", src.ID, again.ID)
	}
	for _, mode := range []string{pool.CloneCOW, pool.CloneFlatten, pool.CloneCopy} {
		req := on("clone-"+mode, "n2")
		req.Volume, req.CloneMode = src.ID, mode
		if clone := r.create(req); clone.Store != src.Store {
			t.Errorf("%s: the clone left its source's store", mode)
		}
	}
	r.net.SetFull("a:1", true) // now it has to be copied
	req := on("copy", "n2")
	req.Volume = src.ID
	if clone := r.create(req); r.addr[clone.Store] != "b:1" {
		t.Errorf("the copy is on %s", r.addr[clone.Store])
	}
}

// TestPlacementIsStable: where a volume is made does not change between attempts, however
// the room on the stores changes, although the first answer was lost.
func TestPlacementIsStable(t *testing.T) {
	r := newRig(t, 3)
	for i := range 20 {
		name := fmt.Sprintf("v%d", i)
		for k, addr := range []string{"a:1", "b:1", "c:1"} {
			r.net.SetFree(addr, int64(100+900*((i+k)%3))*mib)
		}
		r.net.SetFate(func(_, op string) pooltest.Fate {
			if op == "Create" {
				return pooltest.Lose
			}
			return pooltest.Pass
		})
		_, err := r.svc.Create(t.Context(), empty(name))
		r.wantErr(err, store.ErrUnavailable, "lost")
		r.net.SetFate(nil)
		for k, addr := range []string{"a:1", "b:1", "c:1"} {
			r.net.SetFree(addr, int64(100+900*((i+k+1)%3))*mib)
		}
		r.create(empty(name))
		if n := r.images(name); n != 1 {
			t.Fatalf("%s was made %d times", name, n)
		}
	}
}

// TestFull: a full store is left for the next; all full is ErrNoSpace with nothing left
// behind, and works again when one has room.
func TestFull(t *testing.T) {
	r := newRig(t, 3)
	where := r.addr[r.create(empty("probe")).Store]
	if err := r.svc.Delete(t.Context(), r.create(empty("probe")).ID); err != nil {
		t.Fatal(err)
	}
	r.net.SetFull(where, true)
	v := r.create(empty("probe"))
	if r.addr[v.Store] == where {
		t.Errorf("made on the full store")
	}
	r.net.SetFull(where, false)
	r.restart(pool.Settings{})
	if again := r.create(empty("probe")); again.ID != v.ID {
		t.Errorf("made again where there was no room before")
	}
	for addr := range r.stores {
		r.net.SetFull(addr, true)
	}
	_, err := r.svc.Create(t.Context(), empty("none"))
	r.wantErr(err, store.ErrNoSpace, "no store of pool p that answers (3 of 3) has room")
	for addr := range r.stores {
		r.net.SetFull(addr, false)
		w, err := r.svc.Create(t.Context(), empty("none"))
		if err != nil {
			t.Fatalf("with room on %s: %v", addr, err)
		}
		if err := r.svc.Delete(t.Context(), w.ID); err != nil {
			t.Fatal(err)
		}
		r.net.SetFull(addr, true)
	}
	if err := r.svc.Delete(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	r.wantClean(0, 0)
}

// TestOneDown: with a store down a volume goes to the other one or waits; nothing is made
// a second time when it is back.
func TestOneDown(t *testing.T) {
	r := newRig(t, 2)
	r.create(empty("first")) // both have joined
	r.net.SetDown("b:1", true)
	made, waiting := 0, 0
	for i := range 30 {
		_, err := r.svc.Create(t.Context(), empty(fmt.Sprintf("v%d", i)))
		if err == nil {
			made++
			continue
		}
		waiting++
		r.wantErr(err, store.ErrUnavailable, r.uuid["b:1"])
	}
	if made < 3 || waiting < 3 {
		t.Errorf("%d were made, %d wait", made, waiting)
	}
	r.net.SetDown("b:1", false)
	for i := range 30 {
		name := fmt.Sprintf("v%d", i)
		r.create(empty(name))
		if n := r.images(name); n != 1 {
			t.Errorf("%s was made %d times", name, n)
		}
	}
}

func seed(t *testing.T) uint64 {
	n := uint64(time.Now().UnixNano())
	if s := os.Getenv("STRATA_SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		n = v
	}
	t.Logf("STRATA_SEED=%d", n)
	return n
}

// chaos decides about calls by seed, store, operation and how often that was called, so
// that a seed replays although calls come from many goroutines.
type chaos struct {
	seed  uint64
	mu    sync.Mutex
	calls map[string]uint64
	calm  bool
}

func (c *chaos) fate(addr, op string) pooltest.Fate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calm {
		return pooltest.Pass
	}
	c.calls[addr+op]++
	h := fnv.New64a()
	h.Write([]byte(addr + op))
	switch n := rand.New(rand.NewPCG(c.seed^h.Sum64(), c.calls[addr+op])).IntN(24); {
	case n == 0:
		return pooltest.Refuse
	case n <= 2:
		return pooltest.Lose
	case n <= 7 && op == "Create":
		return pooltest.Full
	}
	return pooltest.Pass
}

func (c *chaos) quiet(calm bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calm = calm
}

// TestNeverTwice: stores that fill up, vanish and lose answers, and controllers that are
// replaced, never make a second volume of a name, and leave nothing behind. Random; the
// seed is printed.
func TestNeverTwice(t *testing.T) {
	start := seed(t)
	for round := range uint64(60) {
		rnd := rand.New(rand.NewPCG(start, round))
		r := newRig(t, 2+int(round%3))
		src := r.create(empty("source"))
		requests := make(map[string]volume.CreateRequest)
		for _, name := range []string{"v0", "v1", "v2", "v3"} {
			requests[name] = empty(name)
		}
		for _, name := range []string{"c0", "c1", "c2", "c3"} {
			requests[name] = volume.CreateRequest{Name: name, Volume: src.ID}
		}
		names := slices.Sorted(maps.Keys(requests))
		var told []string
		wild := &chaos{seed: start + round, calls: make(map[string]uint64)}
		r.net.SetFate(wild.fate)
		for range 60 {
			_, err := r.svc.Create(t.Context(), requests[names[rnd.IntN(len(names))]])
			told = append(told, fmt.Sprint(err))
			if rnd.IntN(6) == 0 {
				r.restart(pool.Settings{})
			}
		}
		wild.quiet(true)
		for _, name := range names {
			v, err := r.insist(requests[name])
			if errors.Is(err, store.ErrUnavailable) { // how the last copy ended is told once
				v, err = r.insist(requests[name])
			}
			if err != nil {
				t.Error(err)
			}
			if n := r.images(name); n != 1 {
				t.Errorf("%s was made %d times", name, n)
			}
			if err := r.svc.Delete(t.Context(), v.ID); err != nil {
				t.Error(err)
			}
		}
		if err := r.svc.Delete(t.Context(), src.ID); err != nil {
			t.Error(err)
		}
		r.wantClean(0, 0)
		if t.Failed() {
			t.Fatalf("round %d; the answers were\n%s", round, strings.Join(told, "\n"))
		}
	}
}
