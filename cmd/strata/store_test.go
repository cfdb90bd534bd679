package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/pkg/app"
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
