package driver

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/stage/stagetest"
	"github.com/strata-csi/strata/pkg/store"
)

const nodeMiB = int64(1) << 20

// nodeRig is a node behind a real socket.
type nodeRig struct {
	*stagetest.World
	t        *testing.T
	stage    *stage.Service
	node     csi.NodeClient
	identity csi.IdentityClient
	metrics  *prometheus.Registry
	endpoint string

	mu  sync.Mutex
	log strings.Builder
}

func newNodeRig(t *testing.T) *nodeRig {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w, err := stagetest.New(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	r := &nodeRig{World: w, t: t, metrics: prometheus.NewRegistry(), endpoint: "unix://" + filepath.Join(dir, "csi.sock")}
	log := funcr.New(func(prefix, args string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		fmt.Fprintln(&r.log, prefix, args)
	}, funcr.Options{Verbosity: 9})
	events, err := NewNodeEvents(log, r.metrics)
	if err != nil {
		t.Fatal(err)
	}
	cfg := w.Config()
	cfg.Tick, cfg.Notify = 10*time.Millisecond, events.Notify
	if r.stage, err = stage.Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.stage.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	r.metrics.MustRegister(NewNodeCollector(r.stage))
	m, err := NewMetrics(r.metrics)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Listen(ServerConfig{
		Endpoint: r.endpoint, Log: log, Metrics: m,
		Identity: NewIdentity(IdentityConfig{Version: "1.2.3", Controller: true}),
		Node:     NewNode(NodeConfig{ID: stagetest.Node}, r.stage),
	})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, s)
	conn := dialUnix(t, s.Path())
	r.node, r.identity = csi.NewNodeClient(conn), csi.NewIdentityClient(conn)
	return r
}

// serve runs a server until the test ends.
func serve(t *testing.T, s *Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func dialUnix(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func nodeImage(n int) store.ID { return store.ID(fmt.Sprintf("20000000-0000-4000-8000-%012d", n)) }

func mountCap(mode csi.VolumeCapability_AccessMode_Mode, fs string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fs, MountFlags: []string{"noatime", "password=hunter2"}}},
	}
}

// stageRequest publishes an image and asks for it as kubelet does.
func (r *nodeRig) stageRequest(n int, c *csi.VolumeCapability) *csi.NodeStageVolumeRequest {
	r.t.Helper()
	r.must(r.Store.Add(nodeImage(n), 16*nodeMiB, nil))
	t, err := r.Ticket(r.t.Context(), nodeImage(n), store.AccessWrite)
	r.must(err)
	return &csi.NodeStageVolumeRequest{
		VolumeId: fmt.Sprintf("v1:default:%s:%s", nodeImage(n), stagetest.StoreID), PublishContext: ticket(t).context(),
		StagingTargetPath: filepath.Join(r.Dir, "globalmount", fmt.Sprint(n)), VolumeCapability: c,
		VolumeContext: map[string]string{"storage.kubernetes.io/csiProvisionerIdentity": "x"},
	}
}

func (r *nodeRig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *nodeRig) code(err error, want codes.Code, text string) {
	r.t.Helper()
	if status.Code(err) != want || !strings.Contains(fmt.Sprint(err), text) {
		r.t.Errorf("%v, want %v with %q", err, want, text)
	}
}

func TestNodeLife(t *testing.T) {
	r, ctx := newNodeRig(t), t.Context()
	c := mountCap(csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER, "ext4")
	st := r.stageRequest(1, c)
	pub := &csi.NodePublishVolumeRequest{
		VolumeId: st.VolumeId, StagingTargetPath: st.StagingTargetPath, TargetPath: filepath.Join(r.Dir, "pods", "a"),
		VolumeCapability: c, PublishContext: st.PublishContext,
	}
	for range 2 {
		_, err := r.node.NodeStageVolume(ctx, st)
		r.must(err)
		_, err = r.node.NodePublishVolume(ctx, pub)
		r.must(err)
	}
	other := &csi.NodePublishVolumeRequest{
		VolumeId: st.VolumeId, StagingTargetPath: st.StagingTargetPath, TargetPath: filepath.Join(r.Dir, "pods", "b"), VolumeCapability: c,
	}
	_, err := r.node.NodePublishVolume(ctx, other)
	r.code(err, codes.FailedPrecondition, "once only")
	other.TargetPath, other.Readonly = pub.TargetPath, true
	_, err = r.node.NodePublishVolume(ctx, other)
	r.code(err, codes.AlreadyExists, "in another way")
	st.VolumeCapability = mountCap(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, "xfs")
	_, err = r.node.NodeStageVolume(ctx, st)
	r.code(err, codes.AlreadyExists, "another capability")

	stats, err := r.node.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: st.VolumeId, VolumePath: pub.TargetPath})
	r.must(err)
	if u := stats.GetUsage(); len(u) != 2 || u[0].GetTotal() <= 0 || u[1].GetUnit() != csi.VolumeUsage_INODES {
		t.Errorf("usage %v", u)
	}
	r.must(r.Store.Grow(nodeImage(1), 32*nodeMiB))
	ex, err := r.node.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{
		VolumeId: st.VolumeId, VolumePath: pub.TargetPath, StagingTargetPath: st.StagingTargetPath, CapacityRange: &csi.CapacityRange{RequiredBytes: 32 * nodeMiB},
	})
	r.must(err)
	if ex.GetCapacityBytes() != 32*nodeMiB {
		t.Errorf("expanded to %d", ex.GetCapacityBytes())
	}
	for range 2 {
		_, err = r.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: st.VolumeId, TargetPath: pub.TargetPath})
		r.must(err)
		_, err = r.node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: st.VolumeId, StagingTargetPath: st.StagingTargetPath})
		r.must(err)
	}
	left, err := r.Left(ctx)
	r.must(err)
	if len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	r.checkLog(st)
}

// checkLog looks for what must and what must not be in the log.
func (r *nodeRig) checkLog(st *csi.NodeStageVolumeRequest) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	log := r.log.String()
	for _, secret := range []string{st.PublishContext[contextToken], "hunter2"} {
		if strings.Contains(log, secret) {
			r.t.Errorf("%q is in the log", secret)
		}
	}
	for _, want := range []string{`"method"="NodeStageVolume"`, `"volume"="` + st.VolumeId, `"request"=`, strippedText, `\"epoch\":\"1\"`} {
		if !strings.Contains(log, want) {
			r.t.Errorf("the log lacks %s:\n%s", want, log)
		}
	}
}

func TestNodeAnswers(t *testing.T) {
	r, ctx := newNodeRig(t), t.Context()
	c := mountCap(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, "")
	good := r.stageRequest(1, c)
	for name, change := range map[string]func(*csi.NodeStageVolumeRequest){
		"volume_id":           func(q *csi.NodeStageVolumeRequest) { q.VolumeId = "" },
		"staging_target_path": func(q *csi.NodeStageVolumeRequest) { q.StagingTargetPath = "" },
		"not absolute":        func(q *csi.NodeStageVolumeRequest) { q.StagingTargetPath = "rel" },
		"volume_capability":   func(q *csi.NodeStageVolumeRequest) { q.VolumeCapability = nil },
		"access_type": func(q *csi.NodeStageVolumeRequest) {
			q.VolumeCapability = &csi.VolumeCapability{AccessMode: c.AccessMode}
		},
		"access_mode": func(q *csi.NodeStageVolumeRequest) {
			q.VolumeCapability = &csi.VolumeCapability{AccessType: c.AccessType}
		},
		"use ext4":         func(q *csi.NodeStageVolumeRequest) { q.VolumeCapability = mountCap(c.AccessMode.Mode, "btrfs") },
		"publish_context[": func(q *csi.NodeStageVolumeRequest) { q.PublishContext = map[string]string{"pool": "p"} },
	} {
		q := &csi.NodeStageVolumeRequest{
			VolumeId: good.VolumeId, StagingTargetPath: good.StagingTargetPath, VolumeCapability: good.VolumeCapability, PublishContext: good.PublishContext,
		}
		change(q)
		_, err := r.node.NodeStageVolume(ctx, q)
		r.code(err, codes.InvalidArgument, name)
	}
	_, err := r.node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: "v", StagingTargetPath: "/s", VolumeCapability: c})
	r.code(err, codes.FailedPrecondition, "not published to this node")
	_, err = r.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{VolumeId: "v", TargetPath: "/t", VolumeCapability: c})
	r.code(err, codes.FailedPrecondition, "must be staged first")
	_, err = r.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{VolumeId: "v", TargetPath: "/t", StagingTargetPath: "/s", VolumeCapability: c})
	r.code(err, codes.FailedPrecondition, "not staged")
	_, err = r.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{VolumeId: "v", StagingTargetPath: "/s", VolumeCapability: c})
	r.code(err, codes.InvalidArgument, "target_path")
	_, err = r.node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: "v"})
	r.code(err, codes.InvalidArgument, "staging_target_path")
	_, err = r.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{TargetPath: "/t"})
	r.code(err, codes.InvalidArgument, "volume_id")
	_, err = r.node.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: "v", VolumePath: "/p"})
	r.code(err, codes.NotFound, "not at /p")
	_, err = r.node.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{VolumeId: "v", VolumePath: "/p"})
	r.code(err, codes.NotFound, "/p")
	_, err = r.node.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{VolumeId: "v", VolumePath: "/p", CapacityRange: &csi.CapacityRange{RequiredBytes: 2, LimitBytes: 1}})
	r.code(err, codes.InvalidArgument, "capacity_range")
	_, err = r.node.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: "v"})
	r.code(err, codes.NotFound, "not on this node")
	r.Store.Kill()
	_, err = r.node.NodeStageVolume(ctx, good)
	r.code(err, codes.Unavailable, "the store is down")
	r.Store.Start()
	r.Kernel.SetMax(0)
	_, err = r.node.NodeStageVolume(ctx, good)
	r.code(err, codes.ResourceExhausted, "no free NBD index")
	r.Kernel.SetMax(8)
	cloned := r.stageRequest(2, c)
	cloned.VolumeContext = map[string]string{contextSource: "snapshot"}
	_, err = r.node.NodeStageVolume(ctx, cloned)
	r.code(err, codes.FailedPrecondition, "made from a snapshot")
}

func TestNodeHealth(t *testing.T) {
	r, ctx := newNodeRig(t), t.Context()
	st := r.stageRequest(1, mountCap(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, ""))
	_, err := r.node.NodeStageVolume(ctx, st)
	r.must(err)
	reason := func() string {
		h, err := r.node.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: st.VolumeId})
		r.must(err)
		if h.GetVolumeHealth().GetVolumeId() != st.VolumeId {
			t.Errorf("health of %q", h.GetVolumeHealth().GetVolumeId())
		}
		if s := h.GetVolumeHealth().GetHealthStatuses(); len(s) > 0 {
			return s[0].GetReason()
		}
		return ""
	}
	await := func(want string) {
		t.Helper()
		end := time.NewTimer(10 * time.Second)
		defer end.Stop()
		again := time.NewTicker(5 * time.Millisecond)
		defer again.Stop()
		for reason() != want {
			select {
			case <-again.C:
			case <-end.C:
				t.Fatalf("reason %q, want %q", reason(), want)
			}
		}
	}
	await("")
	r.Store.Kill()
	await("StoreUnreachable")
	r.Store.Start()
	await("")
	r.must(r.Store.Unpublish(ctx, nodeImage(1), ""))
	await("Fenced")
	r.wantMetric("strata_node_volume_link", "fenced")
	r.wantMetric("strata_node_events_total", "link back")
	r.wantMetric("strata_csi_call_seconds", "NodeGetVolumeHealth")
}

// wantMetric fails unless a metric has a label of that value.
func (r *nodeRig) wantMetric(name, label string) {
	r.t.Helper()
	families, err := r.metrics.Gather()
	r.must(err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == name && l.GetValue() == label {
					return
				}
			}
		}
	}
	r.t.Errorf("no metric %s with %q", name, label)
}

func TestNodeDescribesItself(t *testing.T) {
	r, ctx := newNodeRig(t), t.Context()
	info, err := r.node.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	r.must(err)
	if info.GetNodeId() != stagetest.Node || info.GetMaxVolumesPerNode() != 256 || info.GetAccessibleTopology().GetSegments()[TopologyKey] != stagetest.Node {
		t.Errorf("node %v", info)
	}
	plugin, err := r.identity.GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
	r.must(err)
	if plugin.GetName() != "csi.strata.dev" || plugin.GetVendorVersion() != "1.2.3" {
		t.Errorf("plugin %v", plugin)
	}
	caps, err := r.identity.GetPluginCapabilities(ctx, &csi.GetPluginCapabilitiesRequest{})
	r.must(err)
	services := make(map[csi.PluginCapability_Service_Type]bool)
	for _, c := range caps.GetCapabilities() {
		services[c.GetService().GetType()] = true
	}
	if len(caps.GetCapabilities()) != 3 || !services[csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS] {
		t.Errorf("capabilities %v", caps)
	}
	r.Store.Kill() // of which Probe does not speak
	p, err := r.identity.Probe(ctx, &csi.ProbeRequest{})
	r.must(err)
	if !p.GetReady().GetValue() {
		t.Error("not ready")
	}
	nc, err := r.node.NodeGetCapabilities(ctx, &csi.NodeGetCapabilitiesRequest{})
	r.must(err)
	if len(nc.GetCapabilities()) != 5 {
		t.Errorf("capabilities %v", nc)
	}
}
