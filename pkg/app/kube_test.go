package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/klog/v2/ktesting"

	"github.com/strata-csi/strata/pkg/kube"
	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

// clusterAPI is as much of an API server as events need.
type clusterAPI struct {
	*testing.T
	*httptest.Server

	mu      sync.Mutex
	handles map[string]string // by name of the volume; its claim is called "claim-of-" and that
	told    chan string       // "claim reason"
	texts   []string
}

func newClusterAPI(t *testing.T) *clusterAPI {
	c := &clusterAPI{T: t, handles: make(map[string]string), told: make(chan string, 1000)}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *clusterAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	name := path.Base(r.URL.Path)
	if r.Method == http.MethodPost && name == "events" {
		var e struct {
			Kind           string `json:"kind"`
			APIVersion     string `json:"apiVersion"`
			Reason         string `json:"reason"`
			Message        string `json:"message"`
			InvolvedObject struct {
				Kind string `json:"kind"`
				Name string `json:"name"`
			} `json:"involvedObject"`
		}
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			c.Error(err)
		}
		c.texts = append(c.texts, e.Message) // before those who wait go on and read it
		c.told <- fmt.Sprintf("%s %s %s", e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Reason)
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"kind":"Event","apiVersion":"v1"}`)
		return
	}
	if name == "persistentvolumes" {
		fmt.Fprint(w, `{"kind":"PersistentVolumeList","apiVersion":"v1","items":[]}`)
		return
	}
	handle := c.handles[name]
	if handle == "" {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
		return
	}
	fmt.Fprintf(w, `{"kind":"PersistentVolume","apiVersion":"v1","metadata":{"name":%q},"spec":{"csi":{"driver":"csi.strata.dev","volumeHandle":%q},
		"claimRef":{"namespace":"default","name":"claim-of-%s"}}}`, name, handle, name)
}

// await takes what was told until all of want was.
func (c *clusterAPI) await(want ...string) {
	c.Helper()
	timeout := time.After(time.Minute)
	for len(want) > 0 {
		select {
		case got := <-c.told:
			want = slices.DeleteFunc(want, func(w string) bool { return w == got })
		case <-timeout:
			c.mu.Lock()
			defer c.mu.Unlock()
			c.Fatalf("nobody was told of %v; the texts of all events are %q", want, c.texts)
		}
	}
}

// testDaemon is a process without its sockets, with events in the cluster.
func testDaemon(t *testing.T, c *clusterAPI) (*daemon, *kube.Recorder) {
	t.Helper()
	log, ctx := ktesting.NewTestContext(t)
	d := &daemon{log: log, web: newWeb(Web{}, nil)}
	t.Cleanup(func() {
		if err := d.stack.unwind(ctx); err != nil {
			t.Error(err)
		}
	})
	cluster, err := kube.ConnectAt(c.URL, "test")
	if err != nil {
		t.Fatal(err)
	}
	return d, d.recorder(cluster, "node-a")
}

// TestUsersAreToldOfFlattens: clone of clone past the soft limit, as a user of claims sees
// it.
func TestUsersAreToldOfFlattens(t *testing.T) {
	data := t.TempDir()
	s := mustStart(t, Config{Data: data, Init: true, CopyRate: 4 << 20})
	defer s.stop()
	c := newClusterAPI(t)
	d, recorder := testDaemon(t, c)
	reach, err := newReach(pool.Config{Pools: []pool.Settings{{Name: "p", Default: true, Backend: pool.BackendLayered, Local: data}}}, false)
	if err != nil {
		t.Fatal(err)
	}
	d.stack.pushPlain("connections", reach.pools.Close)
	controller := d.controller(reach.pools, recorder)
	client, err := storeapi.Dial(data, storeapi.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	parent := ""
	for i := range 4 {
		req := &csi.CreateVolumeRequest{
			Name: fmt.Sprintf("pvc-%d", i), Parameters: map[string]string{"softCloneDepth": "2"},
			CapacityRange: &csi.CapacityRange{RequiredBytes: 16 << 20},
			VolumeCapabilities: []*csi.VolumeCapability{{
				AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
				AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
			}},
		}
		if parent != "" {
			req.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
				Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: parent},
			}}
		}
		resp, err := controller.CreateVolume(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		parent = resp.GetVolume().GetVolumeId()
		c.mu.Lock()
		c.handles[req.GetName()] = parent
		c.mu.Unlock()
		if i == 0 {
			fillImage(t, client, req.GetName())
		}
	}
	// Which of them is flattened is the store's decision.
	c.await("PersistentVolumeClaim claim-of-pvc-3 CloneDeep", "PersistentVolumeClaim claim-of-pvc-3 CloneDepthLowered",
		"PersistentVolumeClaim claim-of-pvc-2 FlattenDone")
	c.mu.Lock()
	defer c.mu.Unlock()
	all := strings.Join(c.texts, "\n")
	for _, want := range []string{"The clone depth is 3, and its soft limit 2", "Started: ", "Done: the volume depends on no other any more; ", "The clone depth is 1 now, down from 3."} {
		if !strings.Contains(all, want) {
			t.Errorf("nobody was told %q, only:\n%s", want, all)
		}
	}
}

// fillImage writes to an image, so that its flatten has something to do.
func fillImage(t *testing.T, client *storeapi.Client, name string) {
	t.Helper()
	info, err := client.Lookup(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	dev, err := client.Open(t.Context(), info.ID)
	if err != nil {
		t.Fatal(err)
	}
	_, err = dev.WriteAt([]byte(strings.Repeat(name, 1<<20)), 0)
	if err := errors.Join(err, dev.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestUsersAreToldOfFencing(t *testing.T) {
	c := newClusterAPI(t)
	id := store.NewID()
	c.handles["pvc-1"] = "v1:p:" + string(id) + ":x"
	_, recorder := testDaemon(t, c)
	e := stage.Event{Kind: stage.Fenced, Volume: c.handles["pvc-1"], Epoch: 3, Err: store.ErrFenced, Paths: []string{"/k/pods/u/volumes/kubernetes.io~csi/pvc-1/mount"}}
	fenced(nil, "node-a", e)
	fenced(recorder, "node-a", stage.Event{Kind: stage.LinkLost, Volume: e.Volume})
	fenced(recorder, "node-a", e)
	c.await("PersistentVolumeClaim claim-of-pvc-1 VolumeFenced")
	e.Paths = nil
	e.Epoch = 4
	fenced(recorder, "node-a", e)
	c.await("Node node-a VolumeFenced")
	if !strings.Contains(c.texts[0], "Node node-a has lost the right to volume v1:p:"+string(id)+":x") {
		t.Errorf("told %q", c.texts[0])
	}
}

// TestEventsOutsideOfCluster: nobody is told, unless that was asked for.
func TestEventsOutsideOfCluster(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	d := new(daemon)
	for _, mode := range []KubeEvents{"", KubeEventsAuto, KubeEventsOff} {
		if r, err := d.events(mode, "v", "node-a"); r != nil || err != nil {
			t.Errorf("%q: %v, %v", mode, r, err)
		}
	}
	if _, err := d.events(KubeEventsOn, "v", "node-a"); !errors.Is(err, kube.ErrNotInCluster) || !strings.Contains(err.Error(), "--kube-events=off") {
		t.Errorf("failed with %v", err)
	}
	var mode KubeEvents
	if err := mode.Set("maybe"); err == nil || mode != "" {
		t.Errorf("%q is %q, %v", "maybe", mode, err)
	}
	if err := mode.Set("on"); err != nil || mode != KubeEventsOn {
		t.Errorf("%q is %q, %v", "on", mode, err)
	}
}
