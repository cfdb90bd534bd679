package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/pkg/app"
	"github.com/strata-csi/strata/pkg/storeapi"
)

func TestChoice(t *testing.T) {
	cmd := &cobra.Command{Use: "store"}
	for got, want := range map[string]bool{"buffered": false, "stable": true} {
		if is, err := choice(cmd, "ack", got, "buffered", "stable"); is != want || err != nil {
			t.Errorf("%s: %v, %v", got, is, err)
		}
	}
	for _, got := range []string{"", "Stable", "direct"} {
		if is, err := choice(cmd, "ack", got, "buffered", "stable"); is || err == nil {
			t.Errorf("%q: %v, %v; want an error", got, is, err)
		}
	}
}

// The flags of the engine reach it.
func TestEngineFlags(t *testing.T) {
	var e engineFlags
	cmd := &cobra.Command{}
	e.add(cmd)
	if err := cmd.ParseFlags([]string{"--copy-rate", "8M", "--alloc-unit", "64K", "--scrub-every", "168h", "--scrub-rate", "16M", "--io", "direct"}); err != nil {
		t.Fatal(err)
	}
	var got app.Config
	if err := e.apply(cmd, &got); err != nil {
		t.Fatal(err)
	}
	want := app.Config{CopyRate: 8 << 20, AllocUnit: 64 << 10, ScrubEvery: 168 * time.Hour, ScrubRate: 16 << 20, DirectIO: true}
	if got.CopyRate != want.CopyRate || got.AllocUnit != want.AllocUnit || got.ScrubEvery != want.ScrubEvery || got.ScrubRate != want.ScrubRate || got.DirectIO != want.DirectIO {
		t.Errorf("the flags give %+v", got)
	}
	b := newBench(t)
	r := b.run("store", "--data", filepath.Join(b.dir, "data"), "--init", "--allow-unsafe", "--alloc-unit", "12K")
	if r.code == 0 || !strings.Contains(r.err, "power of two") {
		t.Errorf("a store with a bad unit: %+v", r)
	}
}

// TestStoreTellsItsNode: a store says where it runs; the host's name unless it is told
// another one.
func TestStoreTellsItsNode(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for want, flags := range map[string][]string{host: nil, "worker-7": {"--node-name", "worker-7"}} {
		dir, err := os.MkdirTemp("", "scli")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		cmd, lines := process(t, "strata", append([]string{"store", "--data", dir, "--init", "--allow-unsafe"}, flags...)...)
		expectLine(t, lines, "made store ")
		c, err := storeapi.Dial(dir, storeapi.DialOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if st, err := c.Status(t.Context()); err != nil || st.Node != want {
			t.Errorf("with %q it says %q (%v), want %q", flags, st.Node, err, want)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}
