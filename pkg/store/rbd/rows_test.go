//go:build ceph

package rbd_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd"
)

const mib = int64(1) << 20

// bench is a store with the rbd command beside it, as a witness that shares no code.
type bench struct {
	*testing.T
	l *lab
	o rbd.Options
	s *rbd.Store
}

func newBench(t *testing.T, l *lab, object int64) *bench {
	b := &bench{T: t, l: l, o: l.options(object)}
	b.s = open(t, b.o)
	t.Cleanup(func() {
		if err := b.s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// raw runs the rbd command.
func (b *bench) raw(args ...string) ([]byte, error) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), "rbd", append([]string{"--conf", b.l.conf, "--pool", "rbd"}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("rbd %v: %w: %s", args, err, said.String())
	}
	return out, err
}

func (b *bench) rbd(args ...string) []byte {
	b.Helper()
	out, err := b.raw(args...)
	b.must(err)
	return out
}

// wantCode requires that the rbd command ends with that errno.
func (b *bench) wantCode(code int, args ...string) {
	b.Helper()
	_, err := b.raw(args...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code {
		b.Errorf("rbd %v ends with %v, want exit code %d", args, err, code)
	}
}

// name is an image's name in the cluster.
func (b *bench) name(i store.Info) string {
	return "strata." + b.o.Installation + "." + string(i.Image)
}

type rbdInfo struct {
	Size   int64  `json:"size"`
	Prefix string `json:"block_name_prefix"`
	Parent *struct {
		Image    string `json:"image"`
		Snapshot string `json:"snapshot"`
		Trash    bool   `json:"trash"`
		Overlap  int64  `json:"overlap"`
	} `json:"parent"`
}

func (b *bench) info(spec string) (i rbdInfo) {
	b.Helper()
	b.must(json.Unmarshal(b.rbd("info", "--format", "json", spec), &i))
	return i
}

// objects counts the data objects of an image.
func (b *bench) objects(prefix string) int {
	b.Helper()
	out, err := exec.CommandContext(b.Context(), "rados", "--conf", b.l.conf, "--pool", "rbd", "ls").Output()
	b.must(err)
	return strings.Count(string(out), prefix+".")
}

func (b *bench) create(spec store.Spec) store.Info {
	b.Helper()
	i, err := b.s.Create(b.Context(), spec)
	b.must(err)
	return i
}

func (b *bench) snapshot(i store.Info, name string) store.Info {
	b.Helper()
	n, err := b.s.Snapshot(b.Context(), i.ID, name)
	b.must(err)
	return n
}

func (b *bench) clone(name string, of store.Info) store.Info {
	b.Helper()
	return b.create(store.Spec{Name: name, Parent: of.ID})
}

func (b *bench) stat(i store.Info) store.Info {
	b.Helper()
	i, err := b.s.Stat(b.Context(), i.ID)
	b.must(err)
	return i
}

func (b *bench) write(i store.Info, off int64, p []byte) {
	b.Helper()
	d, err := b.s.Open(b.Context(), i.ID)
	b.must(err)
	_, err = d.WriteAt(p, off)
	b.must(errors.Join(err, d.Close()))
}

func (b *bench) read(i store.Info) []byte {
	b.Helper()
	d, err := b.s.Open(b.Context(), i.ID)
	b.must(err)
	p := make([]byte, d.Info().Size)
	_, err = d.ReadAt(p, 0)
	b.must(errors.Join(err, d.Close()))
	return p
}

// same requires that store and witness show the bytes wanted.
func (b *bench) same(i store.Info, want []byte) {
	b.Helper()
	if got := b.read(i); !bytes.Equal(got, want) {
		b.Errorf("%s shows other bytes than it should", i.Ref())
	}
	spec := b.name(i)
	if i.Kind == store.KindSnapshot {
		spec += "@" + string(i.ID)
	}
	if got := b.rbd("export", "--no-progress", spec, "-"); !bytes.Equal(got, want) {
		b.Errorf("rbd export of %s gives other bytes than it should", i.Ref())
	}
}

func (b *bench) settle() {
	b.Helper()
	for {
		jobs, err := b.s.Jobs(b.Context())
		b.must(err)
		if len(jobs) == 0 {
			return
		}
		for _, j := range jobs {
			if err := b.s.WatchJob(b.Context(), j.ID, func(store.Job) error { return nil }); err != nil && !errors.Is(err, store.ErrNotFound) {
				b.Fatal(err)
			}
		}
	}
}

// decode runs the rbd command and reads its JSON.
func (b *bench) decode(v any, args ...string) {
	b.Helper()
	b.must(json.Unmarshal(b.rbd(args...), v))
}

// clusterID is an image's id in the cluster.
func (b *bench) clusterID(name string) string {
	b.Helper()
	return strings.TrimPrefix(b.info(name).Prefix, "rbd_data.")
}

// gone waits until an image has left pool and trash.
func (b *bench) gone(i store.Info) {
	b.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if !strings.Contains(string(b.rbd("ls"))+string(b.rbd("trash", "ls", "--all")), b.name(i)) {
			return
		}
		select {
		case <-tick.C:
		case <-b.Context().Done():
			b.Fatalf("%s is still there: %v", i.Name, b.Context().Err())
		}
	}
}

func letters(n int64, c byte) []byte { return bytes.Repeat([]byte{c}, int(n)) }

// TestRows compares the store with what the rbd command says, and with what it does
// itself, behaviour by behaviour. Numbers are those of the table of librbd's behaviours
// that the store was designed after.
func TestRows(t *testing.T) {
	l := newLab(t)
	for name, test := range map[string]func(*bench){
		"02CloneFromSnapshot": rowClone, "14CloneOfRemovedSnapshot": rowSource, "24ZeroParentData": rowZeros,
		"28ShrinkAndGrow": rowShrink, "35FlattenOfFlat": rowFlat, "37FlattenInterrupted": rowInterrupted,
		"38OwnSnapshots": rowOwnSnapshots, "44RemoveWithClones": rowRemove, "47RemoveSnapshotWithClones": rowRemoveSnapshot,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, l, 4<<20)
			test(b)
			b.settle()
			problems, err := b.s.Check(t.Context(), true)
			if err != nil || len(problems) > 0 {
				t.Errorf("check: %v, %v", problems, err)
			}
		})
	}
}

// rowClone: links through snapshots count, and the overlap is the snapshot's size.
func rowClone(b *bench) {
	img := b.create(store.Spec{Name: "v0", Size: 8 * mib, Policy: store.Policy{Soft: 60, Hard: 60}})
	b.write(img, 0, letters(mib, 'a'))
	for n := 1; n <= 7; n++ {
		from := img
		img = b.clone(fmt.Sprintf("v%d", n), b.snapshot(from, "s"))
		got := b.info(b.name(img))
		if got.Parent == nil || got.Parent.Image != b.name(from) || got.Parent.Overlap != 8*mib || img.Overlap != 8*mib {
			b.Fatalf("clone %d is %+v, in the cluster %+v", n, img, got.Parent)
		}
	}
	if img.Depth != 7 {
		b.Errorf("the chain has depth %d, want 7", img.Depth)
	}
	b.same(img, append(letters(mib, 'a'), make([]byte, 7*mib)...))
}

// rowSource: what is being removed is no source any more.
func rowSource(b *bench) {
	img := b.create(store.Spec{Name: "img", Size: mib})
	snap := b.snapshot(img, "s")
	child := b.clone("child", snap)
	b.must(b.s.Remove(b.Context(), snap.ID))
	if _, err := b.s.Create(b.Context(), store.Spec{Name: "late", Parent: snap.ID}); !errors.Is(err, store.ErrNotFound) {
		b.Errorf("a clone of a removed snapshot answers %v", err)
	}
	if got := b.stat(child); got.ParentSnapshot != "" || got.Depth != 1 {
		b.Errorf("the clone made before is %+v", got)
	}
}

// rowZeros: a flatten makes no objects of what is zero in the parent.
func rowZeros(b *bench) {
	img := b.create(store.Spec{Name: "img", Size: 32 * mib})
	for n := range int64(4) {
		b.write(img, 2*n*4*mib, letters(4096, 'a'))
	}
	want := b.read(img)
	child := b.clone("child", img)
	b.must(b.s.Flatten(b.Context(), child.ID))
	got := b.info(b.name(child))
	if n := b.objects(got.Prefix); n != 4 || got.Parent != nil {
		b.Errorf("after the flatten there are %d objects, want 4, and a parent %+v", n, got.Parent)
	}
	b.same(child, want)
}

// rowShrink: the overlap never grows again.
func rowShrink(b *bench) {
	img := b.create(store.Spec{Name: "img", Size: 32 * mib})
	b.write(img, 0, letters(32*mib, 'a'))
	child := b.clone("child", img)
	for _, size := range []int64{4 * mib, 64 * mib} {
		_, err := b.s.Resize(b.Context(), child.ID, size)
		b.must(err)
	}
	got, want := b.info(b.name(child)), b.stat(child)
	if got.Size != 64*mib || got.Parent == nil || got.Parent.Overlap != 4*mib || want.Overlap != 4*mib {
		b.Errorf("in the cluster it is %+v, here %+v", got, want)
	}
	b.same(child, append(letters(4*mib, 'a'), make([]byte, 60*mib)...))
}

// rowFlat: what is flat already succeeds, where the library says EINVAL.
func rowFlat(b *bench) {
	img := b.create(store.Spec{Name: "img", Size: mib})
	b.wantCode(22, "flatten", "--no-progress", b.name(img))
	b.must(b.s.Flatten(b.Context(), img.ID))
	if err := b.s.Flatten(b.Context(), b.snapshot(img, "s").ID); !errors.Is(err, store.ErrInvalid) {
		b.Errorf("flatten of a snapshot answers %v", err)
	}
}

// rowOwnSnapshots: an image's own snapshots lose the parent with it.
func rowOwnSnapshots(b *bench) {
	img := b.create(store.Spec{Name: "img", Size: 8 * mib})
	b.write(img, 0, letters(8*mib, 'a'))
	base := b.snapshot(img, "base")
	child := b.clone("child", base)
	old := b.snapshot(child, "old")
	b.write(child, 0, letters(mib, 'b'))
	b.must(b.s.Flatten(b.Context(), child.ID))
	for _, i := range []store.Info{child, old} {
		spec := b.name(i)
		if i.Kind == store.KindSnapshot {
			spec += "@" + string(i.ID)
		}
		if got := b.info(spec); got.Parent != nil || b.stat(i).Depth != 0 || b.stat(i).Overlap != 0 {
			b.Errorf("%s still has a parent: %+v, %+v", i.Ref(), got.Parent, b.stat(i))
		}
	}
	if kids := b.rbd("children", "--all", b.name(img)+"@"+string(base.ID)); len(kids) > 0 {
		b.Errorf("the former parent still has children: %s", kids)
	}
	b.same(old, letters(8*mib, 'a'))
	b.same(child, append(letters(mib, 'b'), letters(7*mib, 'a')...))
}

// rowRemove: an image with clones is removed at once, where the library says ENOTEMPTY. It
// lies in the trash until its last clone goes.
func rowRemove(b *bench) {
	img := b.create(store.Spec{Name: "img", Size: 4 * mib})
	b.write(img, 0, letters(4*mib, 'a'))
	one, two := b.clone("one", img), b.clone("two", img)
	b.wantCode(39, "rm", "--no-progress", b.name(img))
	b.must(b.s.Remove(b.Context(), img.ID))
	b.settle()
	inTrash := func() bool { return strings.Contains(string(b.rbd("trash", "ls", "--all")), b.name(img)) }
	if _, err := b.raw("info", b.name(img)); err == nil || !inTrash() {
		b.Errorf("a removed image is still in the pool, or not in its trash")
	}
	b.same(one, letters(4*mib, 'a'))
	if u, err := b.s.Usage(b.Context(), one.ID); err != nil || u.Retained != 4*mib || len(u.RetainedFor) != 1 {
		b.Errorf("what is retained: %+v, %v", u, err)
	}
	b.must(b.s.Remove(b.Context(), one.ID))
	b.settle()
	if !inTrash() {
		b.Errorf("it left the trash although a clone reads it")
	}
	b.must(b.s.Flatten(b.Context(), two.ID))
	b.settle()
	if inTrash() {
		b.Errorf("it is in the trash although nothing reads it")
	}
	b.same(two, letters(4*mib, 'a'))
}

// rowRemoveSnapshot: a removed snapshot is hidden at once and goes with its last clone.
func rowRemoveSnapshot(b *bench) {
	img := b.create(store.Spec{Name: "img", Size: 4 * mib})
	b.write(img, 0, letters(4*mib, 'a'))
	snap := b.snapshot(img, "s")
	child := b.clone("child", snap)
	b.must(b.s.Remove(b.Context(), snap.ID))
	b.settle()
	if _, err := b.s.Lookup(b.Context(), "img@s"); !errors.Is(err, store.ErrNotFound) || b.stat(img).Snapshots != 0 {
		b.Errorf("a removed snapshot is still seen: %v", err)
	}
	there := func() bool {
		return strings.Contains(string(b.rbd("snap", "ls", "--all", b.name(img))), string(snap.ID))
	}
	if !there() {
		b.Errorf("the snapshot is gone although a clone reads it")
	}
	b.write(img, 0, letters(4*mib, 'b'))
	b.same(child, letters(4*mib, 'a'))
	b.must(b.s.Flatten(b.Context(), child.ID))
	b.settle()
	if there() {
		b.Errorf("the snapshot is there although nothing reads it")
	}
	b.same(child, letters(4*mib, 'a'))
}
