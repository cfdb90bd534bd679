package tree

import (
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
)

func image(name, parent string, depth int) store.Info {
	i := store.Info{ID: store.ID(name), Kind: store.KindImage, Name: name, Image: store.ID(name), ImageName: name, Size: 1 << 30, Depth: depth, State: store.StateReady}
	if parent != "" {
		owner, snap, _ := strings.Cut(parent, "@")
		i.Parent, i.ParentName = store.ID(owner), parent
		if snap != "" {
			i.ParentSnapshot = store.ID(parent)
		}
	}
	return i
}

func snapshot(of store.Info, name string) store.Info {
	i := of
	i.ID, i.Kind, i.Name = store.ID(of.Name+"@"+name), store.KindSnapshot, name
	return i
}

func removed(i store.Info) store.Info {
	i.ImageRemoved = true
	return i
}

func drawn(t *testing.T, all []store.Info, usage map[store.ID]store.Usage, jobs []store.Job, ascii bool) string {
	t.Helper()
	var b strings.Builder
	if err := Draw(&b, Build(all, usage, jobs), ascii); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func expect(t *testing.T, got string, want ...string) {
	t.Helper()
	if w := strings.Join(want, "\n") + "\n"; got != w {
		t.Errorf("got\n%s\nwant\n%s", got, w)
	}
}

func TestDrawFamily(t *testing.T) {
	golden := image("golden", "", 0)
	web := image("web", "golden@v1", 1)
	all := []store.Info{
		golden, snapshot(golden, "v1"), snapshot(golden, "v2"), web, snapshot(web, "s"),
		image("web2", "golden@v1", 1), image("deep", "web@s", 2), image("direct", "golden", 1), image("alone", "", 0),
	}
	usage := map[store.ID]store.Usage{
		"golden": {Own: 5 << 20, Shared: 1 << 30}, "deep": {Own: 4096, Shared: 8192, Retained: 4096},
	}
	jobs := []store.Job{
		{ID: "1", Kind: store.JobFlatten, Target: "deep", State: store.JobRunning, Done: 42, Total: 100},
		{ID: "2", Kind: store.JobFlatten, Target: "web2", State: store.JobQueued},
		{ID: "3", Kind: store.JobMerge, Target: "web", State: store.JobRunning},
	}
	expect(t, drawn(t, all, usage, jobs, false),
		"NAME              DEPTH   SIZE    OWN  SHARED  RETAINED  STATE",
		"alone                 0  1 GiB                           ready",
		"golden                0  1 GiB  5 MiB   1 GiB       0 B  ready",
		"├─ @v1                0  1 GiB                           ready",
		"│  ├─ web             1  1 GiB                           ready",
		"│  │  └─ @s           1  1 GiB                           ready",
		"│  │     └─ deep      2  1 GiB  4 KiB   8 KiB     4 KiB  flattening 42%",
		"│  └─ web2            1  1 GiB                           flatten queued",
		"├─ @v2                0  1 GiB                           ready",
		"└─ direct             1  1 GiB                           ready")
}

func TestDrawRemovedAncestors(t *testing.T) {
	mid := image("mid", "gone@s", 1) // removed, but a snapshot of it lives
	all := []store.Info{
		removed(snapshot(mid, "keep")),
		image("a", "gone@s", 1),            // the snapshot it came from has gone too
		image("b", "mid@keep", 2),          // its parent snapshot lives
		image("c", "lost", 3),              // nothing else is known of its parent
		snapshot(image("d", "", 0), "own"), // its image exists below
		image("d", "", 0),
	}
	expect(t, drawn(t, all, nil, nil, true),
		"NAME         DEPTH   SIZE  OWN  SHARED  RETAINED  STATE",
		"d                0  1 GiB                         ready",
		"`- @own          0  1 GiB                         ready",
		"gone             0                                removed",
		"|- a             1  1 GiB                         ready",
		"`- mid           1                                removed",
		"   `- @keep      1  1 GiB                         ready",
		"      `- b       2  1 GiB                         ready",
		"lost             2                                removed",
		"`- c             3  1 GiB                         ready")
}

func TestFindAndLoops(t *testing.T) {
	roots := Build([]store.Info{image("a", "", 0), image("b", "a", 1), image("x", "", 0)}, nil, nil)
	if n := Find(roots, "b"); n == nil || n.Name != "a" {
		t.Errorf("the root of b is %v", n)
	}
	if n := Find(roots, "nope"); n != nil {
		t.Errorf("the root of nothing is %v", n)
	}
	// A damaged store may say that two images are each other's parent.
	looped := Build([]store.Info{image("p", "q", 1), image("q", "p", 1)}, nil, nil)
	if len(looped) != 1 || Find(looped, "p") == nil || Find(looped, "q") == nil {
		t.Errorf("a loop lost an image: %v", looped)
	}
}

func TestPercent(t *testing.T) {
	for want, j := range map[int]store.Job{
		0: {Done: 5}, 99: {Done: 999, Total: 1000}, 100: {State: store.JobDone}, 50: {Done: 1 << 49, Total: 1 << 50},
	} {
		if got := Percent(j); got != want {
			t.Errorf("%+v is %d%%, want %d%%", j, got, want)
		}
	}
}
