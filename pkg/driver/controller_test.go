package driver

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/strata-csi/strata/pkg/store"
)

// TestControllerCreateCodes: each way to ask wrongly has its code.
func TestControllerCreateCodes(t *testing.T) {
	r := newControllerRig(t)
	v := r.volume("v")
	for _, c := range []struct {
		name   string
		change func(*csi.CreateVolumeRequest)
		code   codes.Code
	}{
		{"", nil, codes.InvalidArgument},
		{strings.Repeat("x", 129), nil, codes.InvalidArgument},
		{"a\x01", nil, codes.InvalidArgument},
		{"x", func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = nil }, codes.InvalidArgument},
		{"x", func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0].AccessType = nil }, codes.InvalidArgument},
		{"x", func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0].AccessMode = nil }, codes.InvalidArgument},
		{"x", func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0] = mount(rwx, "") }, codes.InvalidArgument},
		{"x", func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0] = mount(rwo, "ntfs") }, codes.InvalidArgument},
		{"x", func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0] = mount(99, "") }, codes.InvalidArgument},
		{"x", with("colour", "blue"), codes.InvalidArgument},
		{"x", with("pool", "other"), codes.InvalidArgument},
		{"x", with("cloneMode", "fast"), codes.InvalidArgument},
		{"x", with("blockSize", "1024"), codes.InvalidArgument},
		{"x", func(r *csi.CreateVolumeRequest) { r.MutableParameters = map[string]string{"pool": "p"} }, codes.InvalidArgument},
		{"x", func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = new(csi.VolumeContentSource) }, codes.InvalidArgument},
		{"x", fromSnapshot(""), codes.InvalidArgument},
		{"x", fromVolume(""), codes.InvalidArgument},
		{"x", fromSnapshot("nonsense"), codes.NotFound},
		{"x", fromVolume("nonsense"), codes.NotFound},
		{"x", sized(store.MaxSize+1, 0), codes.OutOfRange},
		{"x", sized(1, 2), codes.OutOfRange},
		{"x", func(r *csi.CreateVolumeRequest) { fromVolume(v.GetVolumeId())(r); sized(mib, 0)(r) }, codes.OutOfRange},
		{"v", sized(8*mib, 0), codes.AlreadyExists},
		{"v", fromVolume(v.GetVolumeId()), codes.AlreadyExists},
		{"v", func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0] = block(rwo) }, codes.AlreadyExists},
		{"v", with("blockSize", "512"), codes.AlreadyExists},
		{"v", nil, codes.OK},
		{"v", sized(mib, 8*mib), codes.OK},
	} {
		if c.change == nil {
			c.change = func(*csi.CreateVolumeRequest) {}
		}
		resp, err := r.CreateVolume(t.Context(), createReq(c.name, c.change))
		r.wantCode(err, c.code, "")
		if err == nil && resp.GetVolume().GetVolumeId() != v.GetVolumeId() {
			t.Errorf("%q: another volume", c.name)
		}
	}
	r.net.SetFull("a:1", true)
	r.net.SetFull("b:1", true)
	_, err := r.CreateVolume(t.Context(), createReq("x"))
	r.wantCode(err, codes.ResourceExhausted, "")
	r.net.SetDown("a:1", true)
	r.net.SetDown("b:1", true)
	_, err = r.CreateVolume(t.Context(), createReq("x"))
	r.wantCode(err, codes.Unavailable, "")
}

// TestControllerSources: a volume says what it was made from, at each repetition.
func TestControllerSources(t *testing.T) {
	r := newControllerRig(t)
	v := r.volume("v")
	s, err := r.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: v.GetVolumeId()})
	if err != nil {
		t.Fatal(err)
	}
	snap := s.GetSnapshot()
	if !snap.GetReadyToUse() || snap.GetSizeBytes() != 4*mib || snap.GetSourceVolumeId() != v.GetVolumeId() || snap.GetCreationTime().AsTime().IsZero() {
		t.Errorf("%v", snap)
	}
	for range 2 {
		a := r.volume("a", fromSnapshot(snap.GetSnapshotId()), sized(8*mib, 0))
		if a.GetContentSource().GetSnapshot().GetSnapshotId() != snap.GetSnapshotId() || a.GetCapacityBytes() != 8*mib || a.GetVolumeContext()[contextSource] != "snapshot" {
			t.Errorf("%v", a)
		}
		b := r.volume("b", fromVolume(v.GetVolumeId()))
		if b.GetContentSource().GetVolume().GetVolumeId() != v.GetVolumeId() || b.GetVolumeContext()[contextSource] != "volume" {
			t.Errorf("%v", b)
		}
	}
	if v.GetContentSource() != nil || v.GetVolumeContext() != nil {
		t.Errorf("%v", v)
	}
}

// TestControllerAccess: a capability leads to the right that it needs.
func TestControllerAccess(t *testing.T) {
	for _, c := range []struct {
		cap      *csi.VolumeCapability
		readOnly bool
		want     store.Access
	}{
		{mount(rwo, ""), false, store.AccessWrite}, {mount(rwop, ""), false, store.AccessWrite},
		{mount(rox, ""), false, store.AccessScratch}, {mount(rox, ""), true, store.AccessScratch}, {mount(rwo, ""), true, store.AccessScratch},
		{block(rwo), false, store.AccessWrite}, {block(rwo), true, store.AccessRead}, {block(rox), false, store.AccessRead},
		{block(rwx), false, store.AccessShared}, {block(rwx), true, store.AccessRead},
		{block(csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER), false, store.AccessShared},
	} {
		if got := accessFor(c.cap, c.readOnly); got != c.want {
			t.Errorf("%v read-only %t: %s, want %s", c.cap, c.readOnly, got, c.want)
		}
	}
}

func TestControllerPublish(t *testing.T) {
	r := newControllerRig(t)
	ctx := t.Context()
	v := r.volume("v")
	req := func(node string, c *csi.VolumeCapability) *csi.ControllerPublishVolumeRequest {
		return &csi.ControllerPublishVolumeRequest{VolumeId: v.GetVolumeId(), NodeId: node, VolumeCapability: c}
	}
	first, err := r.ControllerPublishVolume(ctx, req("n1", mount(rwo, "")))
	if err != nil {
		t.Fatal(err)
	}
	if tk, err := readTicket(first.GetPublishContext()); err != nil || !strings.Contains(v.GetVolumeId(), string(tk.Image)) || tk.Access != store.AccessWrite {
		t.Errorf("%v", err)
	}
	for _, c := range []struct {
		req  *csi.ControllerPublishVolumeRequest
		code codes.Code
		text string
	}{
		{req("n1", mount(rwo, "")), codes.OK, ""},
		{req("n1", block(rwo)), codes.AlreadyExists, ""},
		{req("n1", mount(rwop, "")), codes.AlreadyExists, ""},
		{&csi.ControllerPublishVolumeRequest{VolumeId: v.GetVolumeId(), NodeId: "n1", VolumeCapability: mount(rwo, ""), Readonly: true}, codes.AlreadyExists, ""},
		{req("n2", mount(rwo, "")), codes.FailedPrecondition, "node n1"},
		{req("n9", mount(rwo, "")), codes.NotFound, "n9"},
		{req("", mount(rwo, "")), codes.InvalidArgument, "node_id"},
		{req("n1", nil), codes.InvalidArgument, "volume_capability"},
		{&csi.ControllerPublishVolumeRequest{NodeId: "n1", VolumeCapability: mount(rwo, "")}, codes.InvalidArgument, "volume_id"},
		{&csi.ControllerPublishVolumeRequest{VolumeId: "x", NodeId: "n1", VolumeCapability: mount(rwo, "")}, codes.NotFound, "x"},
	} {
		resp, err := r.ControllerPublishVolume(ctx, c.req)
		r.wantCode(err, c.code, c.text)
		if err == nil && fmt.Sprint(resp) != fmt.Sprint(first) {
			t.Error("another publication")
		}
	}
	_, err = r.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.GetVolumeId()})
	r.wantCode(err, codes.FailedPrecondition, "node n1")
	for _, name := range []string{"w", "x"} {
		w := r.volume(name)
		_, err := r.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{VolumeId: w.GetVolumeId(), NodeId: "full", VolumeCapability: mount(rwo, "")})
		if name == "x" {
			r.wantCode(err, codes.ResourceExhausted, "full")
		}
	}
	for _, id := range []string{v.GetVolumeId(), v.GetVolumeId(), "nonsense"} {
		_, err = r.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: "n1"})
		r.wantCode(err, codes.OK, "")
	}
	_, err = r.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{})
	r.wantCode(err, codes.InvalidArgument, "volume_id")
}

func TestControllerLists(t *testing.T) {
	r := newControllerRig(t)
	ctx := t.Context()
	v := r.volume("v")
	r.volume("w")
	if _, err := r.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{VolumeId: v.GetVolumeId(), NodeId: "n1", VolumeCapability: mount(rwo, "")}); err != nil {
		t.Fatal(err)
	}
	all, err := r.ListVolumes(ctx, &csi.ListVolumesRequest{})
	i := slices.IndexFunc(all.GetEntries(), func(e *csi.ListVolumesResponse_Entry) bool { return e.GetVolume().GetVolumeId() == v.GetVolumeId() })
	if err != nil || len(all.GetEntries()) != 2 || i < 0 || !slices.Equal(all.GetEntries()[i].GetStatus().GetPublishedNodeIds(), []string{"n1"}) {
		t.Errorf("%v, %v", all, err)
	}
	page, err := r.ListVolumes(ctx, &csi.ListVolumesRequest{MaxEntries: 1})
	if err != nil || len(page.GetEntries()) != 1 || page.GetNextToken() == "" {
		t.Errorf("%v, %v", page, err)
	}
	got, err := r.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: v.GetVolumeId()})
	if err != nil || !slices.Equal(got.GetStatus().GetPublishedNodeIds(), []string{"n1"}) || got.GetVolume().GetCapacityBytes() != 4*mib {
		t.Errorf("%v, %v", got, err)
	}
	s, err := r.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: v.GetVolumeId()})
	if err != nil {
		t.Fatal(err)
	}
	id := s.GetSnapshot().GetSnapshotId()
	for _, c := range []struct {
		req  *csi.ListSnapshotsRequest
		want int
	}{
		{&csi.ListSnapshotsRequest{}, 1}, {&csi.ListSnapshotsRequest{SnapshotId: id}, 1}, {&csi.ListSnapshotsRequest{SnapshotId: "x"}, 0},
		{&csi.ListSnapshotsRequest{SourceVolumeId: v.GetVolumeId()}, 1}, {&csi.ListSnapshotsRequest{SourceVolumeId: "x"}, 0},
		{&csi.ListSnapshotsRequest{SnapshotId: id, SourceVolumeId: "x"}, 0}, {&csi.ListSnapshotsRequest{SnapshotId: id, SourceVolumeId: v.GetVolumeId()}, 1},
	} {
		if got, err := r.ListSnapshots(ctx, c.req); err != nil || len(got.GetEntries()) != c.want {
			t.Errorf("%v: %v, %v", c.req, got, err)
		}
	}
	_, err = r.ListVolumes(ctx, &csi.ListVolumesRequest{MaxEntries: -1})
	r.wantCode(err, codes.InvalidArgument, "")
	_, err = r.ListVolumes(ctx, &csi.ListVolumesRequest{StartingToken: "x"})
	r.wantCode(err, codes.Aborted, "")
	_, err = r.ListSnapshots(ctx, &csi.ListSnapshotsRequest{StartingToken: "x"})
	r.wantCode(err, codes.Aborted, "")
	_, err = r.ListSnapshots(ctx, &csi.ListSnapshotsRequest{MaxEntries: -1, SnapshotId: id})
	r.wantCode(err, codes.InvalidArgument, "")
	r.net.SetDown("b:1", true)
	_, err = r.ListVolumes(ctx, &csi.ListVolumesRequest{})
	r.wantCode(err, codes.Unavailable, "b:1")
}

func TestControllerChanges(t *testing.T) {
	r := newControllerRig(t)
	ctx := t.Context()
	v := r.volume("v")
	expand := func(id string, c *csi.VolumeCapability, required, limit int64) (*csi.ControllerExpandVolumeResponse, error) {
		return r.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
			VolumeId: id, VolumeCapability: c, CapacityRange: &csi.CapacityRange{RequiredBytes: required, LimitBytes: limit}})
	}
	resp, err := expand(v.GetVolumeId(), mount(rwo, ""), 8*mib, 0)
	if err != nil || resp.GetCapacityBytes() != 8*mib || !resp.GetNodeExpansionRequired() {
		t.Errorf("%v, %v", resp, err)
	}
	if resp, err = expand(v.GetVolumeId(), block(rwo), mib, 0); err != nil || resp.GetCapacityBytes() != 8*mib || resp.GetNodeExpansionRequired() {
		t.Errorf("%v, %v", resp, err)
	}
	_, err = expand(v.GetVolumeId(), nil, store.MaxSize+1, 0)
	r.wantCode(err, codes.OutOfRange, "")
	_, err = expand("x", nil, mib, 0)
	r.wantCode(err, codes.NotFound, "")
	_, err = expand("", nil, mib, 0)
	r.wantCode(err, codes.InvalidArgument, "volume_id")
	_, err = r.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: v.GetVolumeId()})
	r.wantCode(err, codes.InvalidArgument, "capacity_range")

	modify := func(id string, m map[string]string) error {
		_, err := r.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{VolumeId: id, MutableParameters: m})
		return err
	}
	r.wantCode(modify(v.GetVolumeId(), map[string]string{"iops": "5", "softCloneDepth": "3"}), codes.OK, "")
	r.wantCode(modify(v.GetVolumeId(), map[string]string{"iops": "6", "colour": "blue"}), codes.InvalidArgument, "colour")
	r.wantCode(modify(v.GetVolumeId(), map[string]string{"iops": "6", "pool": "p"}), codes.InvalidArgument, "pool")
	r.wantCode(modify("x", map[string]string{"iops": "6"}), codes.NotFound, "")
	r.wantCode(modify("", nil), codes.InvalidArgument, "volume_id")
	for _, s := range r.stores {
		if info, err := s.Lookup(context.Background(), "v"); err == nil && (info.Limits.IOPS != 5 || info.Policy.Soft != 3) {
			t.Errorf("%+v %+v", info.Limits, info.Policy)
		}
	}
	room, err := r.GetCapacity(ctx, &csi.GetCapacityRequest{Parameters: map[string]string{"pool": "p"}})
	if err != nil || room.GetAvailableCapacity() <= 0 || room.GetMaximumVolumeSize().GetValue() <= 0 {
		t.Errorf("%v, %v", room, err)
	}
	_, err = r.GetCapacity(ctx, &csi.GetCapacityRequest{Parameters: map[string]string{"pool": "q"}})
	r.wantCode(err, codes.InvalidArgument, "")
	if room, err = r.GetCapacity(ctx, &csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{mount(rwx, "")}}); err != nil || room.GetAvailableCapacity() != 0 {
		t.Errorf("%v, %v", room, err)
	}
}

func TestControllerValidate(t *testing.T) {
	r := newControllerRig(t)
	v := r.volume("v")
	ask := func(id string, params map[string]string, caps ...*csi.VolumeCapability) (*csi.ValidateVolumeCapabilitiesResponse, error) {
		return r.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{VolumeId: id, VolumeCapabilities: caps, Parameters: params})
	}
	if resp, err := ask(v.GetVolumeId(), nil, mount(rwo, ""), block(rwx)); err != nil || len(resp.GetConfirmed().GetVolumeCapabilities()) != 2 {
		t.Errorf("%v, %v", resp, err)
	}
	if resp, err := ask(v.GetVolumeId(), nil, mount(rwo, ""), mount(rwx, "")); err != nil || resp.GetConfirmed() != nil || resp.GetMessage() == "" {
		t.Errorf("%v, %v", resp, err)
	}
	if resp, err := ask(v.GetVolumeId(), map[string]string{"colour": "blue"}, mount(rwo, "")); err != nil || resp.GetConfirmed() != nil {
		t.Errorf("%v, %v", resp, err)
	}
	_, err := ask("x", nil, mount(rwo, ""))
	r.wantCode(err, codes.NotFound, "")
	_, err = ask("", nil, mount(rwo, ""))
	r.wantCode(err, codes.InvalidArgument, "")
	_, err = ask(v.GetVolumeId(), nil)
	r.wantCode(err, codes.InvalidArgument, "")
}

func TestControllerSnapshots(t *testing.T) {
	r := newControllerRig(t)
	ctx := t.Context()
	v, w := r.volume("v"), r.volume("w")
	freeze := func(name, id string, params map[string]string) error {
		_, err := r.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: id, Parameters: params})
		return err
	}
	r.wantCode(freeze("s", v.GetVolumeId(), map[string]string{"csi.storage.k8s.io/volumesnapshot/name": "x"}), codes.OK, "")
	r.wantCode(freeze("s", v.GetVolumeId(), nil), codes.OK, "")
	r.wantCode(freeze("s", w.GetVolumeId(), nil), codes.AlreadyExists, "")
	r.wantCode(freeze("", v.GetVolumeId(), nil), codes.InvalidArgument, "name")
	r.wantCode(freeze("t", "", nil), codes.InvalidArgument, "source_volume_id")
	r.wantCode(freeze("t", "x", nil), codes.NotFound, "")
	r.wantCode(freeze("t", v.GetVolumeId(), map[string]string{"colour": "blue"}), codes.InvalidArgument, "colour")
	_, err := r.GetSnapshot(ctx, &csi.GetSnapshotRequest{SnapshotId: "x"})
	r.wantCode(err, codes.NotFound, "")
	_, err = r.GetSnapshot(ctx, &csi.GetSnapshotRequest{})
	r.wantCode(err, codes.InvalidArgument, "")
	_, err = r.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{})
	r.wantCode(err, codes.InvalidArgument, "")
	_, err = r.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: "x"})
	r.wantCode(err, codes.OK, "")
	_, err = r.DeleteVolume(ctx, &csi.DeleteVolumeRequest{})
	r.wantCode(err, codes.InvalidArgument, "")
}
