//go:build failpoints

package layered_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"testing"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
)

// killedIn names the store that a process of its own works on until it is killed.
const killedIn = "STRATA_TEST_KILLED_IN"

// order is one call whose commit is followed by a failpoint.
type order struct {
	point string
	call  func(ctx context.Context, s store.Full) error
}

// lookup finds an object that earlier orders have made.
func lookup(s store.Full, ref string) store.ID {
	info, err := s.Lookup(context.Background(), ref)
	if err != nil {
		return ""
	}
	return info.ID
}

// orders is a program that passes every failpoint once. Each may be repeated.
func orders() []order {
	begun := store.FormatBegun
	return []order{
		{"layered.create", func(ctx context.Context, s store.Full) error {
			_, err := s.Create(ctx, store.Spec{Name: "img", Size: mib, Digest: "d"})
			return err
		}},
		{"layered.snapshot", func(ctx context.Context, s store.Full) error {
			_, err := s.Snapshot(ctx, lookup(s, "img"), "s")
			return unless(err, store.ErrConflict)
		}},
		{"layered.create#2", func(ctx context.Context, s store.Full) error {
			_, err := s.Create(ctx, store.Spec{Name: "flat", Parent: lookup(s, "img@s"), Flatten: true, Digest: "d"})
			return err
		}},
		{"layered.modify", func(ctx context.Context, s store.Full) error {
			_, err := s.Modify(ctx, lookup(s, "img"), store.Change{Format: &begun, Limits: &store.Limits{IOPS: 5}})
			return err
		}},
		{"layered.note", func(ctx context.Context, s store.Full) error {
			return unless(s.SwapNote(ctx, "key", "", "value"), store.ErrConflict)
		}},
		{"layered.publish", func(ctx context.Context, s store.Full) error {
			_, err := s.Publish(ctx, lookup(s, "img"), "n", store.AccessScratch)
			return err
		}},
		{"layered.unpublish", func(ctx context.Context, s store.Full) error { return s.Unpublish(ctx, lookup(s, "img"), "n") }},
		{"layered.resize", func(ctx context.Context, s store.Full) error {
			_, err := s.Resize(ctx, lookup(s, "img"), mib/2)
			return err
		}},
		{"layered.revert", func(ctx context.Context, s store.Full) error {
			return s.Revert(ctx, lookup(s, "img"), lookup(s, "img@s"))
		}},
		{"layered.remove", func(ctx context.Context, s store.Full) error {
			id := lookup(s, "img")
			if id == "" {
				return nil
			}
			return s.Remove(ctx, id)
		}},
	}
}

func unless(err, allowed error) error {
	if errors.Is(err, allowed) {
		return nil
	}
	return err
}

// TestBeKilled is the process that TestKilledAfterCommit starts.
func TestBeKilled(t *testing.T) {
	dir := os.Getenv(killedIn)
	if dir == "" {
		t.Skip("no test by itself: the process that TestKilledAfterCommit starts and kills")
	}
	st, err := layered.Open(dir, layered.Options{Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range orders() {
		if err := o.call(t.Context(), st); err != nil {
			t.Fatalf("%s: %v", o.point, err)
		}
	}
	t.Error("it was not killed")
}

// TestKilledAfterCommit: a process that ends between a commit and its answer leaves a
// store that checks clean and takes the same orders again.
func TestKilledAfterCommit(t *testing.T) {
	points := regexp.MustCompile(`failpoint\.Hit\("([^"]+)"\)`)
	var known []string
	for _, o := range orders() {
		known = append(known, o.point)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range points.FindAllSubmatch(text, -1) {
			if !slices.Contains(known, string(m[1])) {
				t.Errorf("no order passes %s in %s", m[1], f)
			}
		}
	}
	for i, o := range orders() {
		t.Run(o.point, func(t *testing.T) { killAt(t, o.point, orders()[i:]) })
	}
}

// killAt has a process killed at a point, and goes on from there with the order that
// was not answered.
func killAt(t *testing.T, point string, rest []order) {
	dir := scratch(t)
	if err := layered.Init(dir, string(store.NewID())); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBeKilled$")
	cmd.Env = append(os.Environ(), killedIn+"="+dir, failpoint.Variable+"="+point)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the process ended by %v and not by SIGKILL:\n%s", err, out)
	}
	st := reopen(t, dir)
	r := &rig{t, t.Context(), st, dir}
	for _, o := range rest {
		r.clean()
		if err := o.call(t.Context(), st); err != nil {
			t.Errorf("%s: %v", o.point, err)
		}
	}
	r.clean()
	var left []string
	r.must(st.Walk(t.Context(), func(i store.Info) error {
		left = append(left, fmt.Sprint(i.Ref(), " ", i.Depth))
		return nil
	}))
	if want := []string{"flat 0", "img@s 0"}; !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q", left, want)
	}
	r.must(st.Close())
}
