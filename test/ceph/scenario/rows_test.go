//go:build ceph

package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
	"github.com/strata-csi/strata/test/ceph/cluster"
)

// TestRows checks, through a gateway and with the command rbd as witness, the behaviours
// of librbd in which drivers built on it have gone wrong. All share a cluster; each has
// images of its own.
func TestRows(t *testing.T) {
	r := newRig(t, cluster.MemStore)
	g := r.newGateway("gw")
	api := g.start("--init")
	for name, row := range map[string]func(*rows){
		"CloneFromSnapshot":            (*rows).cloneFromSnapshot,
		"SourceOfAClone":               (*rows).sourceOfAClone,
		"ZerosOfTheParentStayHoles":    (*rows).zerosOfTheParent,
		"OverlapNeverGrowsBack":        (*rows).overlap,
		"FlattenOfAFlatImage":          (*rows).flatImage,
		"FlattenCutsSnapshotsToo":      (*rows).flattenIsDeep,
		"RemoveAnImageWithClones":      (*rows).removeImage,
		"RemoveASnapshotWithClones":    (*rows).removeSnapshot,
		"ChainAsDeepAsItIsTold":        (*rows).sevenLinks,
		"FlattenAfterParentWasRemoved": (*rows).flattenOrphan,
	} {
		t.Run(name, func(t *testing.T) {
			own := *r
			own.T = t
			row(&rows{rig: &own, ctx: t.Context(), api: api, name: strings.ToLower(name)})
		})
	}
}

type rows struct {
	*rig
	ctx  context.Context
	api  *storeapi.Client
	name string
	made int
}

// image makes one of some objects; those named hold data.
func (r *rows) image(objects int, filled ...int) store.Info {
	r.Helper()
	return r.create(store.Spec{Size: int64(objects) * objectSize, Policy: store.Policy{Soft: 60, Hard: 64}}, filled...)
}

func (r *rows) clone(parent store.ID, filled ...int) store.Info {
	r.Helper()
	return r.create(store.Spec{Parent: parent}, filled...)
}

func (r *rows) create(spec store.Spec, filled ...int) store.Info {
	r.Helper()
	r.made++
	spec.Name = fmt.Sprintf("%s-%d", r.name, r.made)
	info, err := r.api.Create(r.ctx, spec)
	r.must(err)
	if len(filled) == 0 {
		return info
	}
	dev, err := r.api.Open(r.ctx, info.ID)
	r.must(err)
	for _, n := range filled {
		_, err := dev.WriteAt(bytes.Repeat([]byte{byte(r.made)}, objectSize), int64(n)*objectSize)
		r.must(err)
	}
	r.must(dev.Close())
	return info
}

func (r *rows) snapshot(image store.ID) store.Info {
	r.Helper()
	r.made++
	info, err := r.api.Snapshot(r.ctx, image, fmt.Sprintf("s%d", r.made))
	r.must(err)
	return info
}

func (r *rows) stat(id store.ID) store.Info {
	r.Helper()
	info, err := r.api.Stat(r.ctx, id)
	r.must(err)
	return info
}

func (r *rows) shown(id store.ID) []byte { return r.exported(r.ctx, inCluster(id)) }

// Row 2: made at once, whatever there is to copy; size and overlap are the snapshot's,
// also if the source has changed since.
func (r *rows) cloneFromSnapshot() {
	base := r.image(4, 0, 3)
	snap := r.snapshot(base.ID)
	want := r.shown(base.ID)
	_, err := r.api.Resize(r.ctx, base.ID, objectSize)
	r.must(err)
	clone := r.clone(snap.ID)
	saw := r.info(r.ctx, inCluster(clone.ID))
	if saw.Size != 4*objectSize || saw.Parent == nil || saw.Parent.Overlap != 4*objectSize || saw.Parent.Image != "strata.default."+string(base.ID) {
		r.Errorf("rbd info says %+v, parent %+v", saw, saw.Parent)
	}
	if used := r.used(r.ctx, clone.ID); used != 0 {
		r.Errorf("the clone has %d bytes of its own", used)
	}
	if !bytes.Equal(r.shown(clone.ID), want) {
		r.Error("the clone shows other data than the snapshot")
	}
}

// Row 14: a snapshot that was removed is not found, one whose image was removed is as good
// as any other.
func (r *rows) sourceOfAClone() {
	base := r.image(2, 1)
	want := r.shown(base.ID)
	gone, kept := r.snapshot(base.ID), r.snapshot(base.ID)
	pin := r.clone(gone.ID)
	r.must(r.api.Remove(r.ctx, gone.ID))
	if _, err := r.api.Create(r.ctx, store.Spec{Name: r.name + "-x", Parent: gone.ID}); !errors.Is(err, store.ErrNotFound) {
		r.Errorf("clone of a removed snapshot: %v", err)
	}
	r.must(r.api.Remove(r.ctx, base.ID))
	clone := r.clone(kept.ID)
	for _, id := range []store.ID{pin.ID, clone.ID} {
		if !bytes.Equal(r.shown(id), want) {
			r.Errorf("clone %s shows other data than its source", id)
		}
	}
}

// Row 24: 8 objects overlap, 4 hold data: 4 are copied.
func (r *rows) zerosOfTheParent() {
	base := r.image(8, 0, 2, 4, 6)
	clone := r.clone(base.ID)
	want := r.shown(base.ID)
	r.must(r.api.Flatten(r.ctx, clone.ID))
	if used := r.used(r.ctx, clone.ID); used != 4*objectSize {
		r.Errorf("a flatten of 8 objects, 4 of them with data, takes %d bytes", used)
	}
	if !bytes.Equal(r.shown(clone.ID), want) {
		r.Error("flatten changed the content")
	}
}

// Row 28: what a shrink has cut off does not come back.
func (r *rows) overlap() {
	clone := r.clone(r.image(8, 0, 1, 7).ID)
	for _, objects := range []int64{1, 16} {
		_, err := r.api.Resize(r.ctx, clone.ID, objects*objectSize)
		r.must(err)
	}
	saw, said := r.info(r.ctx, inCluster(clone.ID)), r.stat(clone.ID)
	if saw.Parent == nil || saw.Parent.Overlap != objectSize || said.Overlap != objectSize {
		r.Errorf("rbd info says parent %+v, the gateway overlap %d", saw.Parent, said.Overlap)
	}
	data := r.shown(clone.ID)
	if i := bytes.IndexFunc(data[objectSize:], func(b rune) bool { return b != 0 }); i >= 0 || data[0] == 0 {
		r.Errorf("data at %d beyond the overlap; first byte %d", i, data[0])
	}
}

// Row 35: flattening what has no parent succeeds, and again.
func (r *rows) flatImage() {
	image := r.image(1, 0)
	clone := r.clone(image.ID)
	for _, id := range []store.ID{image.ID, clone.ID, clone.ID} {
		r.must(r.api.Flatten(r.ctx, id))
	}
	job, err := r.api.StartFlatten(r.ctx, clone.ID)
	if err != nil || job.State != store.JobDone {
		r.Errorf("a flatten of a flat image: %+v, %v", job, err)
	}
}

// Row 38: the image's own snapshots lose the parent too, and show what they did.
func (r *rows) flattenIsDeep() {
	base := r.image(4, 0, 1)
	clone := r.clone(base.ID)
	snap := r.snapshot(clone.ID)
	spec := inCluster(clone.ID) + "@" + string(snap.ID)
	want := r.exported(r.ctx, spec)
	r.must(r.api.Flatten(r.ctx, clone.ID))
	if saw := r.info(r.ctx, spec); saw.Parent != nil {
		r.Errorf("the snapshot has a parent: %+v", saw.Parent)
	}
	if left := r.children(r.ctx, inCluster(base.ID)); len(left) > 0 {
		r.Errorf("the parent has children: %v", left)
	}
	if !bytes.Equal(r.exported(r.ctx, spec), want) {
		r.Error("flatten changed what a snapshot shows")
	}
}

// Row 44: an image with clones goes at once, its clones stay, and with the last of them
// nothing of it is left.
func (r *rows) removeImage() {
	base := r.image(2, 0, 1)
	want := r.shown(base.ID)
	clone := r.clone(base.ID)
	r.must(r.api.Remove(r.ctx, base.ID))
	if r.strataImages(r.ctx)[base.ID] {
		r.Error("rbd ls still lists it")
	}
	if _, err := r.api.Lookup(r.ctx, base.Name); !errors.Is(err, store.ErrNotFound) {
		r.Errorf("it is still found: %v", err)
	}
	if !bytes.Equal(r.shown(clone.ID), want) {
		r.Error("its clone shows other data")
	}
	if said := r.stat(clone.ID); said.Depth != 1 {
		r.Errorf("the clone's depth is %d", said.Depth)
	}
	r.must(r.api.Remove(r.ctx, clone.ID))
	r.collected(base.ID, clone.ID)
}

// Row 47: a snapshot with clones goes at once, its clones stay; only then can it be
// made again under its name, and the image it was taken of be removed.
func (r *rows) removeSnapshot() {
	base := r.image(2, 0)
	snap := r.snapshot(base.ID)
	want := r.shown(base.ID)
	clone := r.clone(snap.ID)
	r.must(r.api.Remove(r.ctx, snap.ID))
	_, err := r.api.Snapshot(r.ctx, base.ID, snap.Name)
	r.must(err)
	if !bytes.Equal(r.shown(clone.ID), want) {
		r.Error("the clone shows other data")
	}
	r.must(r.api.Flatten(r.ctx, clone.ID))
	if !bytes.Equal(r.shown(clone.ID), want) {
		r.Error("after flatten the clone shows other data")
	}
	if left := r.children(r.ctx, inCluster(base.ID)); len(left) > 0 {
		r.Errorf("the parent has children: %v", left)
	}
}

// sevenLinks: depth counts every kind of link, also past images that were removed.
func (r *rows) sevenLinks() {
	image := r.image(1, 0)
	removed := []store.ID{image.ID}
	for n := range 7 {
		source := image.ID
		if n%2 == 0 {
			source = r.snapshot(image.ID).ID
			removed = append(removed, source)
		}
		image = r.clone(source)
		removed = append(removed, image.ID)
	}
	for _, id := range removed[:len(removed)-1] {
		r.must(r.api.Remove(r.ctx, id))
	}
	if said := r.stat(image.ID); said.Depth != 7 {
		r.Errorf("the depth of seven links is %d", said.Depth)
	}
	if data := r.shown(image.ID); data[0] == 0 {
		r.Error("the content of the root does not show through")
	}
}

// flattenOrphan: a flatten from a parent of which snapshot and image were removed ends
// well, leaves an image that can be opened, and frees the parent.
func (r *rows) flattenOrphan() {
	base := r.image(3, 0, 2)
	snap := r.snapshot(base.ID)
	want := r.shown(base.ID)
	clone := r.clone(snap.ID)
	r.must(r.api.Remove(r.ctx, snap.ID))
	r.must(r.api.Remove(r.ctx, base.ID))
	r.must(r.api.Flatten(r.ctx, clone.ID))
	if saw := r.info(r.ctx, inCluster(clone.ID)); saw.Parent != nil {
		r.Errorf("it still has parent %+v", saw.Parent)
	}
	if !bytes.Equal(r.shown(clone.ID), want) {
		r.Error("flatten changed the content")
	}
	r.collected(base.ID)
}

// collected waits until nothing of the images is left in pool or trash.
func (r *rows) collected(ids ...store.ID) {
	r.Helper()
	r.until(time.Minute, "what was removed is collected", func(ctx context.Context) error {
		left := r.inTrash(ctx)
		for id := range r.strataImages(ctx) {
			left = append(left, "strata.default."+string(id))
		}
		for _, id := range ids {
			if slices.Contains(left, "strata.default."+string(id)) {
				return fmt.Errorf("%s is left", id)
			}
		}
		return nil
	})
}
