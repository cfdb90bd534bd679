//go:build ceph

package rbd_test

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// feed runs the rbd command with input.
func (b *bench) feed(in []byte, args ...string) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), "rbd", append([]string{"--conf", b.l.conf, "--pool", "rbd"}, args...)...)
	cmd.Stdin = bytes.NewReader(in)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("rbd %v: %v: %s", args, err, out)
	}
}

// cloned makes a clone as ceph-csi does where a class asks for nothing: with the feature
// layering alone.
func (b *bench) cloned(parent, name string) {
	b.Helper()
	b.rbd("clone", "--rbd-default-clone-format", "2", "--image-feature", "layering", parent, name)
}

func (b *bench) export(spec string) []byte {
	b.Helper()
	return b.rbd("export", "--no-progress", spec, "-")
}

// poke writes bytes from outside.
func (b *bench) poke(name string, off, n int64, c byte) {
	b.Helper()
	was := b.export(name)
	copy(was[off:], letters(n, c))
	diff := name + "-new"
	b.feed(was, "import", "--no-progress", "-", diff)
	b.must(exec.CommandContext(b.Context(), "sh", "-c",
		"rbd --conf "+b.l.conf+" -p rbd export-diff --no-progress "+diff+" - | rbd --conf "+b.l.conf+" -p rbd import-diff --no-progress - "+name).Run())
	b.rbd("rm", "--no-progress", diff)
}

// csi makes what ceph-csi leaves of a volume a, a snapshot of it, a volume b restored from
// that and a volume c cloned from b: four clone links through hidden images, two of them
// through snapshots in the library's trash.
type csi struct{ a, snap, b, temp, c string }

func (b *bench) csi() csi {
	b.Helper()
	p := b.o.Installation
	v := csi{p + "-csi-vol-a", p + "-csi-snap-1", p + "-csi-vol-b", p + "-csi-vol-c-temp", p + "-csi-vol-c"}
	hidden := func(from, snap, to string) {
		b.rbd("snap", "create", "--no-progress", from+"@"+snap)
		b.rbd("clone", "--rbd-default-clone-format", "2", "--image-feature", "layering", "--image-feature", "deep-flatten", from+"@"+snap, to)
		b.rbd("snap", "rm", "--no-progress", from+"@"+snap)
	}
	b.feed(letters(16*mib, 'a'), "import", "--no-progress", "--image-feature", "layering", "-", v.a)
	hidden(v.a, v.snap, v.snap)
	b.rbd("snap", "create", "--no-progress", v.snap+"@"+v.snap)
	b.cloned(v.snap+"@"+v.snap, v.b)
	b.poke(v.b, 4*mib, mib, 'b')
	hidden(v.b, v.c, v.temp)
	b.rbd("snap", "create", "--no-progress", v.temp+"@"+v.temp)
	b.cloned(v.temp+"@"+v.temp, v.c)
	b.poke(v.c, 8*mib, mib, 'c')
	return v
}

// want is what c shows.
func (v csi) want() []byte {
	w := letters(16*mib, 'a')
	copy(w[4*mib:], letters(mib, 'b'))
	copy(w[8*mib:], letters(mib, 'c'))
	return w
}

func (b *bench) adopt(source, name string) store.Info {
	b.Helper()
	i, err := b.s.Adopt(b.Context(), store.Adoption{Source: source, Name: name})
	b.must(err)
	return i
}

// shows requires that an adopted image shows the bytes wanted, here and to the witness.
func (b *bench) shows(i store.Info, name string, want []byte) {
	b.Helper()
	if got := b.read(i); !bytes.Equal(got, want) {
		b.Errorf("%s shows other bytes than it should", i.Ref())
	}
	if got := b.export(name); !bytes.Equal(got, want) {
		b.Errorf("rbd export of %s gives other bytes than it should", name)
	}
}

// others is all that the command says of images that belong to others.
func (b *bench) others(names ...string) string {
	b.Helper()
	var all strings.Builder
	for _, name := range names {
		all.WriteString(b.described(name))
		all.Write(b.rbd("snap", "ls", "--all", name))
		all.Write(b.rbd("image-meta", "ls", name))
		all.Write(b.export(name))
	}
	return all.String()
}

// described is what rbd info says, but for when somebody has last read it.
func (b *bench) described(name string) string {
	b.Helper()
	var kept strings.Builder
	for line := range strings.Lines(string(b.rbd("info", name))) {
		if !strings.Contains(line, "access_timestamp") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

func newAdoptBench(t *testing.T, l *lab) *bench {
	b := &bench{T: t, l: l, o: l.options(4 << 20)}
	b.o.Lease = 6 * time.Second // so that what is held is looked at often
	b.s = open(t, b.o)
	t.Cleanup(func() {
		if err := b.s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

// TestAdopt: a volume of ceph-csi, with its lineage, is an image like any other once it was
// adopted, and everything that it was made from stays as it was.
func TestAdopt(t *testing.T) {
	b := newAdoptBench(t, newLab(t))
	v := b.csi()
	want := v.want()
	before := b.others(v.a, v.snap, v.b)
	img := b.adopt("rbd/"+v.c, "data")
	if img.Depth != 4 || img.Size != 16*mib || img.Overlap != 16*mib || img.BlockSize != 512 || img.Format != store.FormatUnknown || img.ParentName != v.temp+"@"+v.temp {
		t.Errorf("it is %+v", img)
	}
	if again := b.adopt(v.c, "data"); again.ID != img.ID {
		t.Errorf("adopting it again gives %+v", again)
	}
	if _, err := b.s.Adopt(t.Context(), store.Adoption{Source: v.c}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("adopting it under another name answers %v", err)
	}
	b.shows(img, v.c, want)
	old := b.snapshot(img, "old")
	b.write(img, 0, letters(4096, 'x'))
	child := b.clone("child", old)
	if child.Depth != 5 || child.Parent != img.ID {
		t.Errorf("its clone is %+v", child)
	}
	b.same(child, want)
	_, err := b.s.Resize(t.Context(), img.ID, 20*mib)
	b.must(err)
	now := append(bytes.Clone(want), make([]byte, 4*mib)...)
	copy(now, letters(4096, 'x'))
	b.shows(img, v.c, now)
	if _, err := b.s.Publish(t.Context(), img.ID, "node", store.AccessWrite); err != nil {
		t.Error(err)
	}
	if err := b.s.Remove(t.Context(), img.ID); !errors.Is(err, store.ErrInUse) {
		t.Errorf("removing it while it is published answers %v", err)
	}
	b.must(b.s.Unpublish(t.Context(), img.ID, ""))
	b.revertAdopted(img, old, v.c, want)
	b.endAdopted(img, old, child, v, want)
	if after := b.others(v.a, v.snap, v.b); after != before {
		t.Errorf("what belongs to others has changed from\n%s\nto\n%s", visible(before), visible(after))
	}
}

// visible is what of a text people read.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r >= ' ' && r != 'a' {
			return r
		}
		return -1
	}, s)
}

func (b *bench) revertAdopted(img, old store.Info, name string, want []byte) {
	b.Helper()
	b.must(b.s.Revert(b.Context(), img.ID, old.ID))
	b.shows(img, name, want)
}

// endAdopted flattens and removes all, the store opened anew in between.
func (b *bench) endAdopted(img, old, child store.Info, v csi, want []byte) {
	b.Helper()
	if err := b.s.Flatten(b.Context(), img.ID); !errors.Is(err, store.ErrUnsupported) {
		b.Errorf("an image without deep-flatten that has snapshots is flattened: %v", err)
	}
	b.must(b.s.Flatten(b.Context(), child.ID))
	b.same(child, want)
	b.must(b.s.Remove(b.Context(), old.ID))
	b.settle()
	b.must(b.s.Flatten(b.Context(), img.ID))
	if got := b.stat(img); got.Depth != 0 || got.Parent != "" || b.info(v.c).Parent != nil {
		b.Errorf("after its flatten it is %+v", got)
	}
	b.shows(img, v.c, want)
	b.must(b.s.Close())
	b.s = open(b.T, b.o)
	b.shows(img, v.c, want)
	b.clean()
	b.must(b.s.Remove(b.Context(), img.ID))
	b.must(b.s.Remove(b.Context(), child.ID))
	b.settle()
	if strings.Contains(string(b.rbd("ls"))+string(b.rbd("trash", "ls", "--all")), v.c+"\n") {
		b.Error("the adopted image was removed and is still there")
	}
	b.clean()
	if st, err := b.s.Status(b.Context()); err != nil || st.Layers != 0 {
		b.Errorf("%d rows are left, %v", st.Layers, err)
	}
}

// clean requires that a check finds nothing.
func (b *bench) clean() {
	b.Helper()
	problems, err := b.s.Check(b.Context(), true)
	if err != nil || len(problems) > 0 {
		b.Errorf("check: %v, %v", problems, err)
	}
}

// TestAdoptedIsFlattenedOutside: when others flatten an ancestor and delete what it was
// cloned from, an image that is open here goes on showing the same.
func TestAdoptedIsFlattenedOutside(t *testing.T) {
	b := newAdoptBench(t, newLab(t))
	v := b.csi()
	img := b.adopt(v.c, "data")
	d, err := b.s.Open(t.Context(), img.ID)
	b.must(err)
	defer func() { b.must(d.Close()) }()
	head := make([]byte, 4096)
	_, err = d.ReadAt(head, 0)
	b.must(err)
	depth := func(want int) {
		t.Helper()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for until := time.After(time.Minute); b.stat(img).Depth != want; {
			select {
			case <-tick.C:
			case <-until:
				t.Fatalf("the depth stays %d, want %d", b.stat(img).Depth, want)
			}
		}
		b.settle() // what was the parent has been let go of: all is opened anew
	}
	same := func() {
		t.Helper()
		got := make([]byte, 16*mib)
		if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, v.want()) {
			t.Errorf("it shows other bytes than before, %v", err)
		}
	}
	b.rbd("flatten", "--no-progress", v.temp)
	depth(1)
	b.rbd("rm", "--no-progress", v.b)
	same()
	b.rbd("flatten", "--no-progress", v.c) // as a task would that its manager had queued
	depth(0)
	b.rbd("snap", "purge", "--no-progress", v.temp)
	b.rbd("rm", "--no-progress", v.temp)
	same()
	b.clean()
}

// TestAdoptInTheMiddle: an adopted image from which others have cloned is hidden when it is
// removed, as are its snapshots, and stays for them; it goes when they go.
func TestAdoptInTheMiddle(t *testing.T) {
	b := newAdoptBench(t, newLab(t))
	v := b.csi()
	hidden, mid := b.adopt(v.temp, "hidden"), b.adopt(v.b, "mid")
	if hidden.Snapshots != 1 || hidden.Depth != 3 || mid.Depth != 2 || mid.Snapshots != 0 {
		t.Errorf("they are %+v and %+v", hidden, mid)
	}
	snap, err := b.s.Lookup(t.Context(), "hidden@"+v.temp)
	b.must(err)
	own := b.clone("own", snap)
	b.must(b.s.Remove(t.Context(), snap.ID))
	b.must(b.s.Remove(t.Context(), hidden.ID))
	b.must(b.s.Remove(t.Context(), mid.ID))
	b.settle()
	if got := b.export(v.c); !bytes.Equal(got, v.want()) {
		t.Error("a clone that others have made shows other bytes than it should")
	}
	b.must(b.s.Remove(t.Context(), own.ID))
	b.settle()
	b.clean()
	if got := b.export(v.c); !bytes.Equal(got, v.want()) {
		t.Error("without ours, a clone of others shows other bytes than it should")
	}
	b.rbd("rm", "--no-progress", v.c)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for all := "?"; strings.Contains(all, v.temp) || strings.Contains(all, v.b); {
		select {
		case <-tick.C:
			all = string(b.rbd("ls")) + string(b.rbd("trash", "ls", "--all"))
		case <-t.Context().Done():
			t.Fatalf("nothing needs them any more, and they are still there: %s", all)
		}
	}
	b.export(v.snap)
	b.clean()
}
