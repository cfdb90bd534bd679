package driver

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/pool/pooltest"
	"github.com/strata-csi/strata/pkg/store/memstore"
	"github.com/strata-csi/strata/pkg/volume"
)

const mib = int64(1) << 20

// controllerRig is a controller behind a socket, over two stores in memory.
type controllerRig struct {
	csi.ControllerClient
	t      *testing.T
	net    *pooltest.Network
	stores []*memstore.Store
}

func newControllerRig(t *testing.T) *controllerRig {
	t.Helper()
	r := &controllerRig{t: t, net: pooltest.New()}
	for _, addr := range []string{"a:1", "b:1"} {
		s, _ := r.net.Add(addr)
		for _, note := range [][2]string{{"node/n1", `{}`}, {"node/n2", `{}`}, {"node/full", `{"maxVolumes":1}`}} {
			if err := s.SwapNote(t.Context(), note[0], "", note[1]); err != nil {
				t.Fatal(err)
			}
		}
		r.stores = append(r.stores, s)
	}
	set := r.net.Pools(pool.Settings{Name: "p", Members: []string{"a:1", "b:1"}})
	volumes := volume.New(set, volume.Options{})
	socket := filepath.Join(t.TempDir(), "csi.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	csi.RegisterControllerServer(server, NewController(volumes))
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	r.ControllerClient = csi.NewControllerClient(conn)
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		<-done
		volumes.Close()
		set.Close()
	})
	return r
}

func mount(m mode, fs string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: m},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fs}},
	}
}

func block(m mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: m},
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
	}
}

const (
	rwo  = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	rwop = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	rox  = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	rwx  = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
)

func createReq(name string, change ...func(*csi.CreateVolumeRequest)) *csi.CreateVolumeRequest {
	req := &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: 4 * mib},
		VolumeCapabilities: []*csi.VolumeCapability{mount(rwo, "ext4")},
	}
	for _, c := range change {
		c(req)
	}
	return req
}

func (r *controllerRig) volume(name string, change ...func(*csi.CreateVolumeRequest)) *csi.Volume {
	r.t.Helper()
	resp, err := r.CreateVolume(r.t.Context(), createReq(name, change...))
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.GetVolume()
}

func (r *controllerRig) wantCode(err error, code codes.Code, text string) {
	r.t.Helper()
	if s := status.Convert(err); s.Code() != code || !strings.Contains(s.Message(), text) || code != codes.OK && s.Message() == "" {
		r.t.Errorf("got %v: %s\nwant %v saying %q", s.Code(), s.Message(), code, text)
	}
}

func fromSnapshot(id string) func(*csi.CreateVolumeRequest) {
	return func(r *csi.CreateVolumeRequest) {
		r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
	}
}

func fromVolume(id string) func(*csi.CreateVolumeRequest) {
	return func(r *csi.CreateVolumeRequest) {
		r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id}}}
	}
}

func sized(required, limit int64) func(*csi.CreateVolumeRequest) {
	return func(r *csi.CreateVolumeRequest) {
		r.CapacityRange = &csi.CapacityRange{RequiredBytes: required, LimitBytes: limit}
	}
}

func with(key, value string) func(*csi.CreateVolumeRequest) {
	return func(r *csi.CreateVolumeRequest) { r.Parameters = map[string]string{key: value} }
}
