//go:build ceph

package rbd_test

import (
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
)

// TestAdoptRefused: what cannot be served is refused, with what to do about it, and is left
// as it was; after that has been done it is adopted.
func TestAdoptRefused(t *testing.T) {
	l := newLab(t)
	b := newAdoptBench(t, l)
	p := b.o.Installation + "-"
	for _, c := range []struct {
		name  string
		make  []string // commands of rbd, without the last argument
		is    error
		says  string
		mend  []string
		undo  string // the mended image
		input string
	}{
		{name: "journal", make: []string{"create --size 8M --image-feature layering,exclusive-lock,journaling"}, is: store.ErrUnsupported, says: "journaling", mend: []string{"feature disable {} journaling"}},
		{name: "size", make: []string{"create --size 1000000B"}, is: store.ErrInvalid, says: "rbd resize", mend: []string{"resize --no-progress --size 8M {}"}},
		{name: "luks", input: "LUKS\xba\xbe", is: store.ErrUnsupported, says: "encrypted"},
		{name: "csi-encrypted", make: []string{"create --size 8M", "image-meta set {} rbd.csi.ceph.com/encrypted encrypted"}, is: store.ErrUnsupported, says: "encrypted"},
		{name: "group", make: []string{"create --size 8M", "group create {}-g", "group image add {}-g {}"}, is: store.ErrUnsupported, says: p + "group-g", mend: []string{"group image rm {}-g {}"}},
		{name: "groupsnap", make: []string{"create --size 8M", "group create {}-g", "group image add {}-g {}", "group snap create {}-g@s", "group image rm {}-g {}"}, is: store.ErrUnsupported, says: "group"},
		{name: "stripes", make: []string{"create --size 8M --stripe-unit 64K --stripe-count 4"}, is: store.ErrUnsupported, says: "striped"},
		{name: "lock", make: []string{"create --size 8M", "lock add {} me"}, is: store.ErrInUse, says: "locked"},
		{name: "cache", make: []string{"create --size 8M", "config image set {} rbd_cache true"}, is: store.ErrInvalid, says: "rbd_cache", mend: []string{"config image rm {} rbd_cache"}},
		{name: "v1", make: []string{"create --size 8M", "snap create --no-progress {}@s", "snap protect {}@s", "clone --rbd-default-clone-format 1 {}@s {}-kid"}, is: store.ErrUnsupported, says: p + "v1-kid", mend: []string{"flatten --no-progress {}-kid"}},
		{name: "oldsnap", make: []string{"create --size 5000B", "snap create --no-progress {}@odd", "resize --no-progress --size 8M {}"}, is: store.ErrInvalid, says: "odd", mend: []string{"snap rm --no-progress {}@odd"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := *b
			b.T = t
			image := p + c.name
			if c.input != "" {
				b.feed(append([]byte(c.input), make([]byte, mib)...)[:mib], "import", "--no-progress", "-", image)
			}
			b.lines(image, c.make)
			b.refused(image, c.is, c.says)
			if c.mend != nil {
				b.lines(image, c.mend)
				i := b.adopt(image, "")
				b.must(b.s.Remove(t.Context(), i.ID))
			}
		})
	}
	b.settle()
	b.clean()
}

// lines runs commands of rbd about an image; the first gets it as its last argument.
func (b *bench) lines(image string, lines []string) {
	b.Helper()
	for _, line := range lines {
		if !strings.Contains(line, "{}") {
			line += " {}"
		}
		b.rbd(strings.Fields(strings.ReplaceAll(line, "{}", image))...)
	}
}

// refused requires that an image is not adopted, and not changed by the attempt.
func (b *bench) refused(image string, is error, says string) {
	b.Helper()
	before := b.described(image) + string(b.rbd("image-meta", "ls", image))
	_, err := b.s.Adopt(b.Context(), store.Adoption{Source: image})
	if !errors.Is(err, is) || !strings.Contains(err.Error(), says) {
		b.Errorf("adopting %s answers %v, want one that says %q", image, err, says)
	}
	if after := b.described(image) + string(b.rbd("image-meta", "ls", image)); after != before {
		b.Errorf("the attempt has changed %s from\n%s\nto\n%s", image, before, after)
	}
}

// TestAdoptOfOthers: what somebody has open, what an installation has, and what this one
// does not reach.
func TestAdoptOfOthers(t *testing.T) {
	l := newLab(t)
	b, other := newAdoptBench(t, l), newAdoptBench(t, l)
	image := b.o.Installation + "-img"
	b.rbd("create", "--size", "8M", image)

	cmd := exec.CommandContext(t.Context(), "rbd", "--conf", l.conf, "--pool", "rbd", "bench", "--io-type", "write", "--io-size", "4K", "--io-total", "100G", image)
	out, err := cmd.StdoutPipe()
	b.must(err)
	b.must(cmd.Start())
	_, err = io.ReadAtLeast(out, make([]byte, 200), 200) // it writes
	b.must(err)
	_, err = b.s.Adopt(t.Context(), store.Adoption{Source: image})
	if !errors.Is(err, store.ErrInUse) || !strings.Contains(err.Error(), "open") {
		t.Errorf("adopting what is open answers %v", err)
	}
	b.must(cmd.Process.Kill())
	_ = cmd.Wait() // killed

	taken := b.create(store.Spec{Name: image, Size: mib})
	b.must(errNot(b.s.Adopt(t.Context(), store.Adoption{Source: b.name(taken), Name: "x"})).is(store.ErrConflict, image))
	b.must(errNot(other.s.Adopt(t.Context(), store.Adoption{Source: b.name(taken), Name: "x"})).is(store.ErrConflict, b.o.Installation))
	for _, source := range []string{"nope", "rbd/nope"} {
		b.must(errNot(b.s.Adopt(t.Context(), store.Adoption{Source: source})).is(store.ErrNotFound, "image"))
	}
	for _, source := range []string{"other/" + image, "rbd/ns/" + image} {
		b.must(errNot(b.s.Adopt(t.Context(), store.Adoption{Source: source})).is(store.ErrUnsupported, "without copying"))
	}
	b.waitFree(image)
	b.must(errNot(b.s.Adopt(t.Context(), store.Adoption{Source: image})).is(store.ErrConflict, image))
	got := b.adopt(image, "mine")
	b.must(errNot(other.s.Adopt(t.Context(), store.Adoption{Source: image})).is(store.ErrConflict, b.o.Installation))

	// A clone copies the mark, and is not the installation's for that; but its lineage is.
	b.snapshot(got, "s")
	snap, err := b.s.Lookup(t.Context(), "mine@s")
	b.must(err)
	kid := b.o.Installation + "-kid"
	b.cloned(image+"@"+string(snap.ID), kid)
	b.must(errNot(other.s.Adopt(t.Context(), store.Adoption{Source: kid})).is(store.ErrUnsupported, b.o.Installation))
	mine := b.adopt(kid, "kid")
	if mine.Depth != 1 || mine.Parent != got.ID || mine.ParentSnapshot != snap.ID {
		t.Errorf("what was cloned by hand from an image of the installation is %+v", mine)
	}
	for _, i := range []store.Info{taken, got, snap, mine} {
		b.must(b.s.Remove(t.Context(), i.ID))
	}
	b.settle()
	b.clean()
	if left := strings.Fields(string(b.rbd("ls"))); slices.Contains(left, image) || slices.Contains(left, kid) {
		t.Errorf("of what was adopted and removed there is left %q", left)
	}
}

// answer is what a call that should fail has said.
type answer struct{ err error }

func errNot(_ store.Info, err error) answer { return answer{err} }

// is requires an error of a kind that says something.
func (a answer) is(kind error, says string) error {
	if errors.Is(a.err, kind) && strings.Contains(a.err.Error(), says) {
		return nil
	}
	return errors.Join(errors.New("want an error that says "+says), a.err)
}

// waitFree waits until the watch of a client that was killed has run out.
func (b *bench) waitFree(image string) {
	b.Helper()
	for strings.Contains(string(b.rbd("status", image)), "watcher=") {
		if b.Context().Err() != nil {
			b.Fatal(b.Context().Err())
		}
	}
}
