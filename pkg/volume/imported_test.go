package volume_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/volume"
)

// TestImportedImageIsAVolume: an image that an operator has made by the store's own tool is
// a volume under the handle that docs/operations.md tells, with all that volumes have.
func TestImportedImageIsAVolume(t *testing.T) {
	r := newRig(t, 2)
	ctx := t.Context()
	i, err := r.stores["b:1"].Create(ctx, store.Spec{Name: "imported", Size: 4 * mib})
	if err != nil {
		t.Fatal(err)
	}
	r.create(empty("other")) // the stores have joined the pool
	handle := strings.Join([]string{"v1", "p", string(i.ID), r.uuid["b:1"]}, ":")
	if _, err := r.svc.Publish(ctx, volume.PublishRequest{Volume: handle, Node: "n1", Access: store.AccessWrite}); err != nil {
		t.Errorf("publish: %v", err)
	}
	s, err := r.svc.CreateSnapshot(ctx, "s", handle)
	if err != nil {
		t.Errorf("snapshot: %v", err)
	}
	if v, err := r.svc.Expand(ctx, handle, 8*mib, 0); err != nil || v.Info.Size != 8*mib {
		t.Errorf("expand: %+v, %v", v, err)
	}
	if v := r.create(volume.CreateRequest{Name: "restored", Snapshot: s.ID}); v.Info.Parent == "" {
		t.Errorf("restored: %+v", v)
	}
	if err := errors.Join(r.svc.Unpublish(ctx, handle, "n1"), r.svc.Delete(ctx, handle)); err != nil {
		t.Errorf("end: %v", err)
	}
	if n := r.images("imported"); n != 0 {
		t.Errorf("%d images are left", n)
	}
}
