package sanity

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

const (
	mib = int64(1) << 20
	// volumeSize is enough for a journal, so that mkfs makes the usual ext4.
	volumeSize = 64 * mib
)

// target is a driver that is being served.
type target struct {
	// controller and node are sockets; they may be the same.
	controller, node string
	// data is the store's directory.
	data string
}

// config is csi-sanity's for one access type.
func (d target) config(access, dir string) *sanity.TestConfig {
	c := sanity.NewTestConfig()
	c.Address, c.ControllerAddress = "unix://"+d.node, "unix://"+d.controller
	c.TargetPath, c.StagingPath = filepath.Join(dir, access+"-target"), filepath.Join(dir, access+"-staging")
	c.TestVolumeAccessType = access
	c.TestVolumeSize, c.TestVolumeExpandSize = volumeSize, 2*volumeSize
	c.TestVolumeParameters = map[string]string{"pool": "default", "softCloneDepth": "4", "cloneMode": "cow"}
	c.TestVolumeMutableParameters = map[string]string{"iops": "5000", "bandwidth": "500Mi", "hardCloneDepth": "32"}
	c.TestNodeVolumeAttachLimit = true
	return &c
}

// run runs the suite once for each access type and says how it went. Specs whose text
// contains one of left are left out, for the reason it has there.
func run(t *testing.T, d target, left map[string]string, access ...string) {
	t.Helper()
	dir := t.TempDir()
	var contexts []*sanity.TestContext
	for _, a := range access {
		ginkgo.Describe(a, func() { contexts = append(contexts, sanity.GinkgoTest(d.config(a, dir))) })
	}
	declared := d.declared(t)
	ginkgo.ReportAfterSuite("csi-sanity", func(r types.Report) {
		for _, a := range access {
			judge(t, a, r, declared, left)
		}
	})
	suite, reporter := ginkgo.GinkgoConfiguration()
	suite.SkipStrings = slices.Sorted(maps.Keys(left))
	reporter.Succinct = true
	gomega.RegisterFailHandler(ginkgo.Fail)
	ginkgo.RunSpecs(t, "csi-sanity", suite, reporter)
	for _, c := range contexts {
		c.Finalize() //nolint:misspell // its name
	}
	d.wantEmpty(t)
}

// judge counts the specs of one access type and explains those that did not run.
func judge(t *testing.T, access string, r types.Report, declared map[string]bool, left map[string]string) {
	passed, pending, total := 0, 0, 0
	skipped := make(map[string]int)
	for _, spec := range r.SpecReports {
		if spec.LeafNodeType != types.NodeTypeIt || len(spec.ContainerHierarchyTexts) == 0 || spec.ContainerHierarchyTexts[0] != access {
			continue
		}
		total++
		switch spec.State {
		case types.SpecStatePassed:
			passed++
		case types.SpecStatePending:
			pending++ // disabled by csi-sanity itself
		case types.SpecStateSkipped:
			why, ok := explain(spec, declared, left)
			if !ok {
				t.Errorf("csi-sanity %s: %q was skipped without need: %s", access, spec.FullText(), why)
			}
			skipped[why]++
		default:
			t.Errorf("csi-sanity %s: %q %s", access, spec.FullText(), spec.State)
		}
	}
	count := 0
	for _, n := range skipped {
		count += n
	}
	fmt.Printf("csi-sanity %s: %d specs, %d passed, %d skipped, %d pending\n", access, total, passed, count, pending)
	for _, why := range slices.SortedFunc(maps.Keys(skipped), cmp.Compare) {
		fmt.Printf("csi-sanity %s: %3d skipped: %s\n", access, skipped[why], why)
	}
	if passed == 0 {
		t.Errorf("csi-sanity %s: no spec ran", access)
	}
}

// undeclared says of which capability each message is about with which csi-sanity skips
// a spec.
var undeclared = map[string]string{
	"GroupControllerService not supported":             "plugin GROUP_CONTROLLER_SERVICE",
	"VolumeGroupSnapshots not supported":               "group CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT",
	"SNAPSHOT_ACCESSIBILITY_CONSTRAINTS not supported": "plugin SNAPSHOT_ACCESSIBILITY_CONSTRAINTS",
	"ControllerGetVolumeHealth not supported":          "controller GET_VOLUME_HEALTH",
	"ControllerListVolumeHealth not supported":         "controller LIST_VOLUME_HEALTH",
	"NodeGetVolumeHealth not supported":                "node GET_VOLUME_HEALTH",
	"NodeGetStorageHealth not supported":               "node GET_STORAGE_HEALTH",
}

// explain says why a spec was skipped, and whether that is good enough.
func explain(spec types.SpecReport, declared map[string]bool, left map[string]string) (string, bool) {
	for text, why := range left {
		if strings.Contains(spec.FullText(), text) {
			return why, true
		}
	}
	for message, capability := range undeclared {
		if strings.Contains(spec.Failure.Message, message) {
			return "not declared: " + capability, !declared[capability]
		}
	}
	return spec.Failure.Message, false
}

// declared is what the driver says that it can do.
func (d target) declared(t *testing.T) map[string]bool {
	t.Helper()
	all := make(map[string]bool)
	controller, node := dial(t, d.controller), dial(t, d.node)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	plugin, err := csi.NewIdentityClient(controller).GetPluginCapabilities(ctx, &csi.GetPluginCapabilitiesRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range plugin.GetCapabilities() {
		if c.GetService() != nil {
			all["plugin "+c.GetService().GetType().String()] = true
		}
	}
	controls, err := csi.NewControllerClient(controller).ControllerGetCapabilities(ctx, &csi.ControllerGetCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range controls.GetCapabilities() {
		all["controller "+c.GetRpc().GetType().String()] = true
	}
	nodes, err := csi.NewNodeClient(node).NodeGetCapabilities(ctx, &csi.NodeGetCapabilitiesRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range nodes.GetCapabilities() {
		all["node "+c.GetRpc().GetType().String()] = true
	}
	return all
}

func dial(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (d target) store(t *testing.T) *storeapi.Client {
	t.Helper()
	c, err := storeapi.Dial(d.data, storeapi.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// wantEmpty: what was made is gone, with everything that was noted of it.
func (d target) wantEmpty(t *testing.T) {
	t.Helper()
	s := d.store(t)
	ctx := t.Context()
	err := s.Walk(ctx, func(i store.Info) error { t.Errorf("%s %s is left", i.Kind, i.Ref()); return nil })
	if err != nil {
		t.Error(err)
	}
	pubs, err := s.Publications(ctx, "")
	if err != nil || len(pubs) > 0 {
		t.Errorf("%d publications are left, %v", len(pubs), err)
	}
	err = s.Notes(ctx, "", func(key, value string) error {
		if key != "pool" && !strings.HasPrefix(key, "member/") && !strings.HasPrefix(key, "node/") {
			t.Errorf("note %s = %s is left", key, value)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	problems, err := s.Check(ctx, true)
	if err != nil || len(problems) > 0 {
		t.Errorf("check: %v, %v", problems, err)
	}
}
