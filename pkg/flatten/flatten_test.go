package flatten

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0 takes STRATA_SEED or the time")

func seed(t *testing.T) *rand.Rand {
	s := *seedFlag
	if s == 0 {
		s, _ = strconv.ParseUint(os.Getenv("STRATA_SEED"), 10, 64)
	}
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: replay with STRATA_SEED=%d", s, s)
	return rand.New(rand.NewPCG(s, 1))
}

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		policy store.Policy
		depth  int
		want   Verdict
	}{
		{store.Policy{}, 0, Link},
		{store.Policy{}, 8, Link},
		{store.Policy{}, 9, LinkThenFlatten},
		{store.Policy{}, 64, LinkThenFlatten},
		{store.Policy{}, 65, FlattenFirst},
		{store.Policy{Soft: 1, Hard: 1}, 1, Link},
		{store.Policy{Soft: 1, Hard: 1}, 2, FlattenFirst},
		{store.Policy{Soft: 3, Hard: 5}, 3, Link},
		{store.Policy{Soft: 3, Hard: 5}, 5, LinkThenFlatten},
		{store.Policy{Soft: 3, Hard: 5}, 6, FlattenFirst},
		{store.Policy{Soft: 100}, 100, Link},
		{store.Policy{Soft: 100}, 101, FlattenFirst},
		{store.Policy{Hard: 4}, 4, Link},
		{store.Policy{Hard: 4}, 5, FlattenFirst},
	} {
		if got := Decide(c.policy, c.depth); got != c.want {
			t.Errorf("%+v at depth %d: %s, want %s", c.policy, c.depth, got, c.want)
		}
	}
}

// chain makes a path whose i-th step costs bytes[i]; the last is the root.
func chain(bytes ...int64) []Step {
	path := make([]Step, len(bytes))
	for i, b := range bytes {
		path[i] = Step{Image: store.ID(fmt.Sprintf("i%d", i)), Depth: len(bytes) - 1 - i, Bytes: b}
	}
	return path
}

// grown is the usual chain of n links: the nearer the root, the less is inherited.
func grown(n int) []Step {
	bytes := make([]int64, n+1)
	for i := range bytes {
		bytes[i] = int64(n-i) * 100
	}
	return chain(bytes...)
}

func with(path []Step, i int, change func(*Step)) []Step {
	change(&path[i])
	return path
}

func queue(s *Step) { s.Queued = true }
func block(s *Step) { s.Blocked = true }

func TestChoose(t *testing.T) {
	blockAll := grown(9)
	for i := range blockAll {
		blockAll[i].Blocked = true
	}
	for _, c := range []struct {
		name string
		path []Step
		soft int
		want Choice
	}{
		{"nothing", nil, 8, Choice{Enough: true}},
		{"a root", grown(0), 8, Choice{Enough: true}},
		{"within the goal", grown(4), 8, Choice{Depth: 4, Enough: true}},
		{"volume, snapshot, volume: seven links", grown(7), 6, Choice{Image: "i3", Bytes: 400, Depth: 3, Enough: true}},
		{"soft even", grown(9), 8, Choice{Image: "i4", Bytes: 500, Depth: 4, Enough: true}},
		{"soft odd rounds down", grown(8), 7, Choice{Image: "i3", Bytes: 500, Depth: 3, Enough: true}},
		{"default limit", grown(9), 0, Choice{Image: "i4", Bytes: 500, Depth: 4, Enough: true}},
		{"limit 1 flattens the source, not the clone", grown(2), 1, Choice{Image: "i1", Bytes: 100, Depth: 1, Enough: true}},
		{"limit 1, source not yet cloned", with(grown(2), 0, block), 1, Choice{Image: "i1", Bytes: 100, Depth: 1, Enough: true}},
		{"cheapest is not the nearest to the root", chain(900, 800, 5, 600, 500, 1, 0), 8, Choice{Image: "i2", Bytes: 5, Depth: 2, Enough: true}},
		{"equal cost goes to the root", chain(7, 7, 7, 7, 7, 7, 7, 7, 7, 0), 8, Choice{Image: "i4", Bytes: 7, Depth: 4, Enough: true}},
		{"nothing to copy", chain(0, 0, 0, 0), 2, Choice{Image: "i1", Depth: 1, Enough: true}},
		{"lowered limit on a deep chain", grown(40), 4, Choice{Image: "i2", Bytes: 3800, Depth: 2, Enough: true}},
		{"blocked one is passed over", with(grown(9), 4, block), 8, Choice{Image: "i3", Bytes: 600, Depth: 3, Enough: true}},
		{"none within the goal: within the limit", with(with(grown(9), 0, block), 1, block), 2, Choice{Image: "i2", Bytes: 700, Depth: 2, Enough: true}},
		{"none within the limit: deepest cut", with(with(with(grown(9), 0, block), 1, block), 2, block), 2, Choice{Image: "i3", Bytes: 600, Depth: 3}},
		{"all blocked", blockAll, 8, Choice{Depth: 9}},
		{"queued within the goal", with(grown(9), 1, queue), 8, Choice{Image: "i1", Bytes: 800, Depth: 1, Already: true, Enough: true}},
		{"cheapest of two queued", with(with(grown(9), 1, queue), 3, queue), 8, Choice{Image: "i3", Bytes: 600, Depth: 3, Already: true, Enough: true}},
		{"queued within the limit", with(grown(10), 7, queue), 8, Choice{Image: "i7", Bytes: 300, Depth: 7, Already: true, Enough: true}},
		{"queued beyond the limit is not enough", with(grown(12), 9, queue), 8, Choice{Image: "i4", Bytes: 800, Depth: 4, Enough: true}},
		{"queued but blocked does not count", with(grown(9), 4, func(s *Step) { s.Queued, s.Blocked = true, true }), 8, Choice{Image: "i3", Bytes: 600, Depth: 3, Enough: true}},
		{"queued far away when nothing else can", with(with(with(grown(4), 0, block), 1, block), 2, queue), 1, Choice{Image: "i2", Bytes: 200, Depth: 2, Already: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Choose(c.path, c.soft); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestHundredClonesAtTheLimitCostOneFlatten(t *testing.T) {
	source := grown(8)
	chosen := store.ID("")
	for i := range 100 {
		clone := append([]Step{{Image: store.ID(fmt.Sprintf("clone%d", i)), Depth: 9, Bytes: 900}}, source...)
		c := Choose(clone, 8)
		if i == 0 {
			if c.Already {
				t.Fatalf("first choice %+v is queued by nobody", c)
			}
			chosen = c.Image
			for j := range source {
				source[j].Queued = source[j].Image == chosen
			}
			continue
		}
		if c.Image != chosen || !c.Already {
			t.Fatalf("clone %d chose %+v, want %s again", i, c, chosen)
		}
	}
}

// TestGenerationsDuringASlowFlatten: clone of clone goes on while the first flatten
// runs; the next one is queued only when the first leaves the chain too deep.
func TestGenerationsDuringASlowFlatten(t *testing.T) {
	path := grown(9)
	for range 4 { // generations 9 to 12: the queued one ends up 4 to 7 links away
		c := Choose(path, 8)
		for j := range path {
			path[j].Queued = path[j].Queued || path[j].Image == c.Image
		}
		path = append([]Step{{Image: path[0].Image + "'", Depth: path[0].Depth + 1, Bytes: path[0].Bytes + 100}}, path...)
	}
	n := 0
	for _, s := range path {
		if s.Queued {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d flattens are queued, want 1", n)
	}
}

// TestChooseAgainstBruteForce cuts every step in turn and measures the depth by
// counting links.
func TestChooseAgainstBruteForce(t *testing.T) {
	rng := seed(t)
	for range 20000 {
		path, soft := randomPath(rng), 1+rng.IntN(12)
		got, goal := Choose(path, soft), max(1, soft/2)
		depth := len(path) - 1
		best, tier := -1, 5
		for i, s := range path[:depth] {
			if s.Blocked {
				continue
			}
			after := i // links left above the cut
			mine := 4
			switch {
			case s.Queued && after <= goal:
				mine = 0
			case s.Queued && after <= soft:
				mine = 1
			case after <= goal:
				mine = 2
			case after <= soft:
				mine = 3
			}
			if mine < tier || mine == tier && tier < 4 && s.Bytes <= path[best].Bytes {
				best, tier = i, mine
			}
		}
		want := Choice{Depth: depth, Enough: depth <= soft}
		if depth > goal && best >= 0 {
			want = Choice{Image: path[best].Image, Bytes: path[best].Bytes, Depth: best,
				Already: path[best].Queued, Enough: best <= soft}
		}
		if got != want {
			t.Fatalf("path %+v soft %d: got %+v, want %+v", path, soft, got, want)
		}
	}
}

func randomPath(rng *rand.Rand) []Step {
	bytes := make([]int64, 1+rng.IntN(20))
	for i := range bytes {
		bytes[i] = rng.Int64N(6)
	}
	path := chain(bytes...)
	for i := range path {
		path[i].Queued, path[i].Blocked = rng.IntN(8) == 0, rng.IntN(4) == 0
	}
	return path
}

// TestDepthStaysBounded grows a chain for many generations with flattens that end
// late, and demands the hard limit always and the soft one whenever all is done.
func TestDepthStaysBounded(t *testing.T) {
	rng := seed(t)
	for range 200 {
		p := Resolve(store.Policy{Soft: 1 + rng.IntN(9), Hard: 10 + rng.IntN(10)})
		path := grown(0)
		for g := range 300 {
			next := append([]Step{{Image: store.ID(strconv.Itoa(g)), Depth: path[0].Depth + 1, Bytes: path[0].Bytes + rng.Int64N(50)}}, path...)
			verdict := Decide(p, next[0].Depth)
			next[0].Blocked = verdict == FlattenFirst
			if verdict != Link {
				c := Choose(next, p.Soft)
				if c.Image == "" {
					t.Fatalf("policy %+v: nothing chosen for %+v", p, next)
				}
				markQueued(next, c.Image)
			}
			if verdict == FlattenFirst {
				path = finish(next)[1:] // nothing was made
			} else {
				path = next
			}
			if path[0].Depth > p.Hard {
				t.Fatalf("policy %+v: depth %d", p, path[0].Depth)
			}
			if rng.IntN(3) == 0 {
				path = finish(path)
				if path[0].Depth > p.Soft {
					t.Fatalf("policy %+v: depth %d with nothing queued", p, path[0].Depth)
				}
			}
		}
	}
}

func markQueued(path []Step, id store.ID) {
	for i := range path {
		path[i].Queued = path[i].Queued || path[i].Image == id
	}
}

// finish cuts every queued link.
func finish(path []Step) []Step {
	for i, s := range path {
		if s.Queued {
			path = path[:i+1]
			path[i].Queued, path[i].Bytes = false, 0
			break
		}
	}
	for i := range path {
		path[i].Depth = len(path) - 1 - i
	}
	return path
}

func TestExplain(t *testing.T) {
	label := func(id store.ID) string { return "<" + string(id) + ">" }
	for _, c := range []struct {
		path []Step
		p    store.Policy
		want string
	}{
		{nil, store.Policy{}, "no image"},
		{grown(3), store.Policy{}, "depth 3 is within the soft limit of 8"},
		{grown(9), store.Policy{}, "depth 9 exceeds the soft limit of 8; flattening <i4> (500 bytes) lowers it to 4"},
		{with(grown(9), 2, queue), store.Policy{}, "depth 9 exceeds the soft limit of 8; the queued flatten of <i2> (700 bytes) lowers it to 2"},
		{with(grown(5), 0, block), store.Policy{Soft: 4, Hard: 4}, "depth 5 exceeds the hard limit of 4; flattening <i2> (300 bytes) lowers it to 2"},
		{with(with(grown(3), 0, block), 1, block), store.Policy{Soft: 1}, "depth 3 exceeds the soft limit of 1; flattening <i2> (100 bytes) lowers it to 2, more flattens must follow"},
		{with(with(grown(2), 0, block), 1, block), store.Policy{Soft: 1}, "depth 2 exceeds the soft limit of 1 and no image on the way to the root can be flattened now"},
	} {
		if got := Explain(c.p, c.path, label); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
	if got := Explain(store.Policy{}, grown(9), nil); !strings.Contains(got, " i4 ") {
		t.Errorf("without label: %s", got)
	}
}

func TestSizeForPeople(t *testing.T) {
	for n, want := range map[int64]string{0: "0 bytes", 1023: "1023 bytes", 1024: "1.0 KiB", 1<<20 - 1: "1.0 MiB",
		1 << 20: "1.0 MiB", 3 << 29: "1.5 GiB", 1 << 50: "1.0 PiB", 1<<63 - 1: "8.0 EiB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
