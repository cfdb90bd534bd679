//go:build ceph

package rbd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd"
)

// killedIn names the installation that a process of its own works on until it is killed.
const killedIn = "STRATA_TEST_KILLED_IN"

// killedSize is the size of what the program works with, all of which shows one letter.
const killedSize = 256 << 10

// life takes images through every change of several steps.
func life(ctx context.Context, s *rbd.Store) error {
	base, err := s.Create(ctx, store.Spec{Name: "base", Size: killedSize, Digest: "d"})
	if err != nil {
		return err
	}
	d, err := s.Open(ctx, base.ID)
	if err != nil {
		return err
	}
	if _, err = d.WriteAt(bytes.Repeat([]byte{'a'}, killedSize), 0); err != nil {
		return err
	}
	if err := d.Close(); err != nil {
		return err
	}
	snap, err := s.Snapshot(ctx, base.ID, "s")
	if err != nil {
		return err
	}
	one, err := s.Create(ctx, store.Spec{Name: "one", Parent: snap.ID, Size: 2 * killedSize})
	if err != nil {
		return err
	}
	two, err := s.Create(ctx, store.Spec{Name: "two", Parent: one.ID})
	if err != nil {
		return err
	}
	if _, err := s.Resize(ctx, base.ID, killedSize/2); err != nil {
		return err
	}
	if err := s.Revert(ctx, base.ID, snap.ID); err != nil {
		return err
	}
	if _, err := s.Publish(ctx, two.ID, "node", store.AccessScratch); err != nil {
		return err
	}
	if err := s.Unpublish(ctx, two.ID, "node"); err != nil {
		return err
	}
	three, err := s.Create(ctx, store.Spec{Name: "three", Parent: two.ID})
	if err != nil {
		return err
	}
	if _, err := s.Adopt(ctx, adopted(os.Getenv(killedIn))); err != nil {
		return err
	}
	for _, end := range []func() error{
		func() error { return s.Remove(ctx, two.ID) }, // to the trash
		func() error { return s.Flatten(ctx, one.ID) },
		func() error { return s.Remove(ctx, snap.ID) },
		func() error { return s.Remove(ctx, base.ID) },
		func() error { return s.Flatten(ctx, three.ID) },
	} {
		if err := errors.Join(end(), idle(ctx, s)); err != nil {
			return err
		}
	}
	return nil
}

// idle waits until no job is left.
func idle(ctx context.Context, s *rbd.Store) error {
	for {
		jobs, err := s.Jobs(ctx)
		if err != nil || len(jobs) == 0 {
			return err
		}
		for _, j := range jobs {
			err := s.WatchJob(ctx, j.ID, func(store.Job) error { return nil })
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
	}
}

// TestKilledChild is the program; it does nothing unless it was started for that.
func TestKilledChild(t *testing.T) {
	installation := os.Getenv(killedIn)
	if installation == "" {
		t.Skip("only a process that is to be killed runs this")
	}
	l := &lab{conf: os.Getenv(confVariable)}
	o := l.options(16 << 10)
	o.Installation = installation
	if err := life(t.Context(), open(t, o)); err != nil {
		t.Fatal(err)
	}
}

// adopted is what the program adopts: an image without the exclusive lock, cloned from one
// that stays whose it is.
func adopted(installation string) store.Adoption {
	return store.Adoption{Source: "rbd/" + installation + "-vol", Name: "adopted"}
}

// start starts the program on an installation.
func (b *bench) start(env ...string) *exec.Cmd {
	b.Helper()
	golden, vol := b.o.Installation+"-golden", b.o.Installation+"-vol"
	b.feed(letters(killedSize, 'a'), "import", "--no-progress", "--image-feature", "layering", "-", golden)
	b.rbd("snap", "create", "--no-progress", golden+"@s")
	b.cloned(golden+"@s", vol)
	cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^TestKilledChild$", "-test.count=1")
	cmd.Env = append(os.Environ(), append(env, killedIn+"="+b.o.Installation, confVariable+"="+b.l.conf)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	b.must(cmd.Start())
	b.Cleanup(func() {
		if b.Failed() {
			b.Logf("the program said: %s", out.Bytes())
		}
	})
	return cmd
}

// survives opens what a killed process has left: everything is whole or not there, the
// bytes are right, and when all is removed the pool has nothing of it.
func (b *bench) survives(what string) {
	b.Helper()
	begun := time.Now()
	s := open(b.T, b.o)
	b.Logf("%s: open again within %v", what, time.Since(begun).Round(time.Millisecond))
	b.s = s
	_, err := s.Adopt(b.Context(), adopted(b.o.Installation))
	b.must(err)
	b.must(idle(b.Context(), s))
	problems, err := s.Check(b.Context(), true)
	if err != nil || len(problems) > 0 {
		b.Errorf("%s: check finds %+v, %v", what, problems, err)
	}
	var ids []store.ID
	b.must(s.Walk(b.Context(), func(i store.Info) error {
		ids = append(ids, i.ID)
		got := b.read(i)
		want := append(bytes.Repeat([]byte{'a'}, killedSize), make([]byte, killedSize)...)[:len(got)]
		if !bytes.Equal(got, want) && (i.Name != "base" || bytes.Trim(got, "a\x00") != nil) {
			return fmt.Errorf("%s: %s shows other bytes than it should", what, i.Ref())
		}
		return nil
	}))
	for _, id := range ids {
		b.must(errors.Join(s.Unpublish(b.Context(), id, ""), s.Remove(b.Context(), id)))
	}
	b.must(idle(b.Context(), s))
	b.must(s.Close())
	left := string(b.rbd("ls")) + string(b.rbd("trash", "ls", "--all"))
	if golden := b.o.Installation + "-golden"; !bytes.Equal(b.rbd("export", "--no-progress", golden, "-"), letters(killedSize, 'a')) {
		b.Errorf("%s: %s shows other bytes than it should", what, golden)
	}
	for _, line := range strings.Split(left, "\n") {
		if strings.Contains(line, "strata."+b.o.Installation+".") || strings.Contains(line, b.o.Installation+"-vol") {
			b.Errorf("%s: left in the pool: %s", what, line)
		}
	}
}

// TestKilledAnywhere kills the program at random moments, most of them within the library.
func TestKilledAnywhere(t *testing.T) {
	l := newLab(t)
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("STRATA_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("STRATA_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 3))
	for range 8 {
		after := time.Duration(50+rng.IntN(2500)) * time.Millisecond
		b := &bench{T: t, l: l, o: l.options(16 << 10)}
		cmd := b.start()
		end := make(chan error, 1)
		go func() { end <- cmd.Wait() }()
		select {
		case <-time.After(after):
			b.must(cmd.Process.Kill())
			<-end
		case err := <-end:
			b.must(err) // it was faster
		}
		b.survives(fmt.Sprintf("killed after %v", after))
	}
}
