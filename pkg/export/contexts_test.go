package export

import (
	"fmt"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
)

// status is what a context says of the first 32 KiB.
func status(t *testing.T, c *nbd.Client, context string) string {
	t.Helper()
	var b strings.Builder
	err := c.Extents(context, 0, 32<<10, func(n int64, flags uint32) bool {
		fmt.Fprintf(&b, "%d:%d ", n>>10, flags)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(b.String())
}

func TestBlockStatus(t *testing.T) {
	r := newRig(t, Config{})
	c := r.dial("img")
	c.WriteAt(make([]byte, 8192), 0)
	c.WriteAt(make([]byte, 8192), 16384)
	r.snapshot("one")
	c.WriteAt(make([]byte, 4096), 4096)
	c.Zero(16384, 4096, false)
	c.Zero(20480, 4096, true)
	r.snapshot("two")
	clone, err := r.src.Create(r.patience, store.Spec{Name: "clone", Parent: r.img.ID})
	if err != nil {
		t.Fatal(err)
	}
	bitmap := func(s string) string { return contextBitmap + s }
	c = r.dial("img", contextDepth, bitmap("one"), bitmap("two"), bitmap("nope"))
	for context, want := range map[string]string{
		nbd.ContextAllocation: "8:0 12:3 4:2 8:3", bitmap("one"): "4:0 4:1 8:0 8:1 8:0", bitmap("two"): "32:0",
	} {
		if got := status(t, c, context); got != want {
			t.Errorf("%s of the image is %s, want %s", context, got, want)
		}
	}
	if got := status(t, c, contextDepth); !strings.HasPrefix(got, "4:") || strings.HasPrefix(got, "4:0") {
		t.Errorf("the depth of the image is %s", got)
	}
	if err := c.Extents(bitmap("nope"), 0, 4096, nil); err == nil {
		t.Error("a bitmap of an unknown snapshot is offered")
	}
	c = r.dial("img@two", bitmap("one"), bitmap("two"))
	if got := status(t, c, bitmap("one")); got != "4:0 4:1 8:0 8:1 8:0" {
		t.Errorf("what changed between the snapshots is %s", got)
	}
	if err := c.Extents(bitmap("two"), 0, 4096, nil); err == nil {
		t.Error("a snapshot has a bitmap of itself")
	}
	// Inherited data is no hole: it has content.
	if got := status(t, r.dial(string(clone.ID)), nbd.ContextAllocation); !strings.HasPrefix(got, "8:0 ") {
		t.Errorf("the allocation of the clone is %s", got)
	}
}

func TestContextQueries(t *testing.T) {
	r := newRig(t, Config{})
	r.snapshot("a")
	if _, err := r.dial("img").WriteAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	b := r.snapshot("b")
	conn := connOf(t, r, "img")
	const a, d, x, y = nbd.ContextAllocation, contextDepth, contextBitmap + "a", contextBitmap + "b"
	for _, c := range []struct {
		name, query string
		want        []string
	}{
		{"img", "", []string{a, d, x, y}},
		{"img", "base:", []string{a}},
		{"img", "qemu:", []string{d, x, y}},
		{"img", contextBitmap, []string{x, y}},
		{"img", x, []string{x}},
		{"img", d, []string{d}},
		{"img", "qemu:dirty", nil},
		{"img", contextBitmap + "a@b", nil},
		{"img", "other:", nil},
		{"img@b", "qemu:", []string{d, x}},
		{"img@a", "qemu:", []string{d}},
	} {
		got, err := r.reg.Contexts(r.patience, c.name, c.query, conn)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s, query %q: %v, %v, want %v", c.name, c.query, got, err, c.want)
		}
	}
	if _, err := r.reg.Contexts(r.patience, "nope", "", conn); err == nil {
		t.Error("an unknown image has contexts")
	}
	// A snapshot made again under its name is not the one that was there before.
	if err := r.src.Remove(r.patience, b.ID); err != nil {
		t.Fatal(err)
	}
	if got, err := r.reg.Contexts(r.patience, "img", y, conn); err != nil || len(got) != 0 {
		t.Errorf("after its removal: %v, %v", got, err)
	}
}
