//go:build ceph

package rbd_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"testing"
	"time"

	"github.com/ceph/go-ceph/rados"

	"github.com/strata-csi/strata/pkg/store"
)

// rowInterrupted: a flatten that a kill ended is done again, also one that died between
// the library's last two steps: when the parent's list had lost the child and the child
// still had its parent. The parent's snapshot was removed before, as is usual; were it in
// the library's trash for snapshots, the first step would have deleted it, and the child
// could never be opened again.
func rowInterrupted(b *bench) {
	img := b.create(store.Spec{Name: "img", Size: 64 * mib})
	b.write(img, 0, letters(64*mib, 'a'))
	snap := b.snapshot(img, "s")
	child := b.clone("child", snap)
	b.must(b.s.Remove(b.Context(), snap.ID))
	b.settle()
	job, err := b.s.StartFlatten(b.Context(), child.ID)
	b.must(err)
	b.must(b.s.PauseJob(b.Context(), job.ID)) // wherever it is by now
	b.must(b.s.Kill())
	b.same2(child, letters(64*mib, 'a'))
	b.detachFromParent(b.name(img), b.name(child))
	b.s = open(b.T, b.o)
	b.must(b.s.ResumeJob(b.Context(), job.ID))
	b.settle()
	if got := b.info(b.name(child)); got.Parent != nil || b.stat(child).Depth != 0 {
		b.Errorf("after the flatten was done again it has the parent %+v", got.Parent)
	}
	b.same(child, letters(64*mib, 'a'))
	b.must(b.s.Remove(b.Context(), img.ID))
	b.settle()
	b.same(child, letters(64*mib, 'a'))
}

// same2 asks the witness alone.
func (b *bench) same2(i store.Info, want []byte) {
	b.Helper()
	if got := b.rbd("export", "--no-progress", b.name(i), "-"); string(got) != string(want) {
		b.Errorf("rbd export of %s gives other bytes than it should", i.Ref())
	}
}

// detachFromParent does what the library does first of the two last steps of a flatten:
// it takes the child off the list in the parent's header. The parent has one snapshot.
func (b *bench) detachFromParent(parent, child string) {
	b.Helper()
	parentID, childID := b.clusterID(parent), b.clusterID(child)
	conn, err := rados.NewConn()
	b.must(err)
	b.must(conn.ReadConfigFile(b.l.conf))
	b.must(conn.Connect())
	defer conn.Shutdown()
	io, err := conn.OpenIOContext("rbd")
	b.must(err)
	defer io.Destroy()
	var snaps []struct {
		ID uint64 `json:"id"`
	}
	b.decode(&snaps, "snap", "ls", "--all", "--format", "json", parent)
	if len(snaps) != 1 {
		b.Fatalf("%s has the snapshots %v, want one", parent, snaps)
	}
	in := binary.LittleEndian.AppendUint64(nil, snaps[0].ID)
	in = append(in, childSpec(io.GetPoolID(), childID)...)
	op := rados.CreateWriteOp()
	defer op.Release()
	op.Exec("rbd", "child_detach", in)
	b.must(op.Operate(io, "rbd_header."+parentID, rados.OperationNoFlag))
}

// TestInterruptedInLibrary is the control of the row about interrupted flattens: what a
// kill at that place makes of an image whose parent's snapshot is in the library's trash.
func TestInterruptedInLibrary(t *testing.T) {
	b := newBench(t, newLab(t), 4<<20)
	parent, child := b.o.Installation+"-parent", b.o.Installation+"-child"
	b.rbd("create", "--size", "8M", parent)
	b.rbd("snap", "create", "--no-progress", parent+"@s")
	b.rbd("clone", "--rbd-default-clone-format", "2", parent+"@s", child)
	b.rbd("snap", "rm", "--no-progress", parent+"@s")
	b.detachFromParent(parent, child)
	b.rbd("snap", "rm", "--snap-id", b.onlySnapshot(parent), parent)
	b.wantCode(2, "export", "--no-progress", child, "-")
}

func (b *bench) onlySnapshot(image string) string {
	b.Helper()
	var snaps []struct {
		ID json.Number `json:"id"`
	}
	b.decode(&snaps, "snap", "ls", "--all", "--format", "json", image)
	if len(snaps) != 1 {
		b.Fatalf("%s has the snapshots %v, want one", image, snaps)
	}
	return snaps[0].ID.String()
}

// childSpec is cls_rbd's encoding of a child: version 2, compatible with 1, length, pool,
// id, namespace.
func childSpec(pool int64, id string) []byte {
	body := binary.LittleEndian.AppendUint64(nil, uint64(pool))
	body = binary.LittleEndian.AppendUint32(body, uint32(len(id)))
	body = append(body, id...)
	body = binary.LittleEndian.AppendUint32(body, 0)
	return append(binary.LittleEndian.AppendUint32([]byte{2, 1}, uint32(len(body))), body...)
}

// TestRevertInterrupted: a roll-back that a kill ended in its midst is carried on to its
// end, although the library left an object map behind that says nothing is to be done.
func TestRevertInterrupted(t *testing.T) {
	b := newBench(t, newLab(t), 16<<10)
	const size = 24 * mib
	img := b.create(store.Spec{Name: "img", Size: size})
	snap := b.snapshot(img, "empty")
	b.write(img, 0, letters(size, 'a'))
	half := 0
	for n := 0; half == 0 && n < 5; n++ {
		ended := make(chan error, 1)
		go func() { ended <- b.s.Revert(context.Background(), img.ID, snap.ID) }()
		until := time.NewTimer(time.Duration(100+100*n) * time.Millisecond)
		select {
		case <-until.C:
		case err := <-ended:
			b.must(err)
			ended <- nil
		}
		b.must(b.s.Kill())
		<-ended
		left := b.rbd("export", "--no-progress", b.name(img), "-")
		if rest := bytes.Count(left, []byte{'a'}); rest > 0 && int64(rest) < size {
			half = rest
		}
		b.s = open(t, b.o)
		if got := b.read(img); len(bytes.Trim(got, "\x00")) > 0 {
			t.Fatalf("after an interrupted roll-back, %d bytes of %d are still there", bytes.Count(got, []byte{'a'}), half)
		}
		b.same(img, make([]byte, size))
		b.write(img, 0, letters(size, 'a'))
	}
	if half == 0 {
		t.Skip("no kill came in the midst of a roll-back on this machine")
	}
}
