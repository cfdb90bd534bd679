package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	typed "k8s.io/client-go/kubernetes/typed/core/v1"
	fakecore "k8s.io/client-go/kubernetes/typed/core/v1/fake"
	clienttest "k8s.io/client-go/testing"

	"github.com/strata-csi/strata/pkg/store"
)

const testDriver = "csi.test"

// fakeAPI is a cluster in memory.
type fakeAPI struct {
	*testing.T
	*clienttest.Fake
	tracker clienttest.ObjectTracker

	mu   sync.Mutex
	made chan struct{} // closed and replaced at each event
	all  []*corev1.Event
}

func newFakeAPI(t *testing.T, objects ...runtime.Object) *fakeAPI {
	f := &fakeAPI{T: t, Fake: new(clienttest.Fake), made: make(chan struct{})}
	f.tracker = clienttest.NewObjectTracker(scheme.Scheme, scheme.Codecs.UniversalDecoder())
	f.add(objects...)
	f.AddReactor("*", "*", clienttest.ObjectReaction(f.tracker))
	f.PrependReactor("create", "events", func(a clienttest.Action) (bool, runtime.Object, error) {
		e := a.(clienttest.CreateAction).GetObject().(*corev1.Event)
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, old := range f.all {
			if old.Namespace == e.Namespace && old.Name == e.Name {
				return true, nil, apierrors.NewAlreadyExists(schema.GroupResource{Resource: "events"}, e.Name)
			}
		}
		f.all = append(f.all, e)
		close(f.made)
		f.made = make(chan struct{})
		return true, e, nil
	})
	return f
}

func (f *fakeAPI) add(objects ...runtime.Object) {
	f.Helper()
	for _, o := range objects {
		if err := f.tracker.Add(o); err != nil {
			f.Fatal(err)
		}
	}
}

func (f *fakeAPI) cluster() *Cluster {
	return &Cluster{core: &fakecore.FakeCoreV1{Fake: f.Fake}, raw: func(context.Context, string) ([]byte, error) {
		return nil, apierrors.NewNotFound(schema.GroupResource{}, "")
	}}
}

// events waits until there are n.
func (f *fakeAPI) events(n int) []*corev1.Event {
	f.Helper()
	timeout := time.After(30 * time.Second)
	for {
		f.mu.Lock()
		all, made := f.all, f.made
		f.mu.Unlock()
		if len(all) >= n {
			return all
		}
		select {
		case <-made:
		case <-timeout:
			f.Fatalf("%d events, want %d", len(all), n)
		}
	}
}

// count is how often the API was asked for something.
func (f *fakeAPI) count(verb, resource string) (n int) {
	for _, a := range f.Actions() {
		if a.Matches(verb, resource) {
			n++
		}
	}
	return n
}

// record starts a recorder that is quick to try again.
func record(t *testing.T, c *Cluster, o Options) *Recorder {
	t.Helper()
	o.Driver = testDriver
	if o.Retry == 0 {
		o.Retry = 5 * time.Millisecond
	}
	r := NewRecorder(c, o)
	t.Cleanup(func() { r.Close() })
	return r
}

// stats waits until the counts are as wanted.
func stats(t *testing.T, r *Recorder, want Stats) {
	t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(30 * time.Second); ; <-ticker.C {
		got := r.Stats()
		if got == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("counts are %+v, want %+v", got, want)
		}
	}
}

// volume is a PersistentVolume that is bound to a claim.
func volume(name, driver, handle, claim string) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
	pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: handle}
	if claim != "" {
		pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: claim, UID: "uid-" + "claim"}
	}
	return pv
}

func handleOf(id store.ID) string { return "v1:default:" + string(id) + ":" + string(store.NewID()) }

func flattened(name string, id store.ID) Notice {
	return Notice{About: Subject{Name: name, UUID: string(id)}, Reason: FlattenDone, Text: "Done.", Key: "1"}
}

func TestEventOnClaim(t *testing.T) {
	id := store.NewID()
	f := newFakeAPI(t, volume("pvc-1", testDriver, handleOf(id), "data"))
	r := record(t, f.cluster(), Options{Host: "node-a"})
	at := time.Unix(1_800_000_000, 0)
	n := flattened("pvc-1", id)
	n.At, n.Text = at, strings.Repeat("ü", 2000)
	n.Reason = FlattenFailed
	// Younger than its age only if that is long.
	r.opts.Age = 1 << 62
	r.Tell(n)
	e := f.events(1)[0]
	o := e.InvolvedObject
	if o.Kind != "PersistentVolumeClaim" || o.APIVersion != "v1" || o.Namespace != "ns" || o.Name != "data" || o.UID != "uid-claim" || e.Namespace != "ns" {
		t.Errorf("the event is on %+v in %s", o, e.Namespace)
	}
	if e.Reason != "FlattenFailed" || e.Type != corev1.EventTypeWarning || len(e.Message) > 1024 || !strings.HasSuffix(e.Message, "ü…") {
		t.Errorf("%s %s %q", e.Type, e.Reason, e.Message)
	}
	if !e.FirstTimestamp.Time.Equal(at) || !e.LastTimestamp.Time.Equal(at) || e.Count != 1 || e.Source.Component != testDriver || e.Source.Host != "node-a" {
		t.Errorf("%+v", e)
	}
	if !strings.HasPrefix(e.Name, "data.") || len(e.Name) != len("data.")+16 {
		t.Errorf("called %q", e.Name)
	}
	n.Reason = FlattenDone
	r.Tell(n)
	if e := f.events(2)[1]; e.Type != corev1.EventTypeNormal {
		t.Errorf("%s is a %s", e.Reason, e.Type)
	}
}

// Two processes that see the same, and one that starts anew, tell it once.
func TestSameNoticeIsOneEvent(t *testing.T) {
	id := store.NewID()
	f := newFakeAPI(t, volume("pvc-1", testDriver, handleOf(id), "data"))
	one, two := record(t, f.cluster(), Options{}), record(t, f.cluster(), Options{})
	for range 3 {
		one.Tell(flattened("pvc-1", id))
		two.Tell(flattened("pvc-1", id))
	}
	stats(t, one, Stats{Delivered: 1})
	stats(t, two, Stats{Delivered: 1})
	if all := f.events(1); len(all) != 1 {
		t.Errorf("%d events", len(all))
	}
	again := flattened("pvc-1", id)
	again.Key = "2"
	one.Tell(again)
	f.events(2)
}

// Other drivers' volumes, and another volume of the same name, are left alone.
func TestOnlyTheRightVolume(t *testing.T) {
	ids := []store.ID{store.NewID(), store.NewID(), store.NewID(), store.NewID()}
	f := newFakeAPI(t,
		volume("other", "csi.other", handleOf(ids[0]), "a"), volume("replaced", testDriver, handleOf(store.NewID()), "b"),
		volume("unbound", testDriver, handleOf(ids[2]), ""), &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "nfs"}})
	r := record(t, f.cluster(), Options{Age: 50 * time.Millisecond})
	for i, name := range []string{"other", "replaced", "unbound", "nfs", "Not/A Name", ""} {
		r.Tell(flattened(name, ids[min(i, 3)]))
	}
	r.Tell(Notice{About: Subject{Name: "nfs"}, Reason: FlattenDone})
	stats(t, r, Stats{Unclaimed: 5})
	if len(f.all) != 0 {
		t.Errorf("events %v", f.all)
	}
}

// A volume that was not made by the provisioner has another name; it is looked for in a
// list, which is not asked for again for a while.
func TestStaticVolumeIsFoundInList(t *testing.T) {
	id, other, lost := store.NewID(), store.NewID(), store.NewID()
	f := newFakeAPI(t, volume("static-pv", testDriver, handleOf(id), "data"), volume("second", testDriver, handleOf(other), "more"))
	r := record(t, f.cluster(), Options{Age: 200 * time.Millisecond})
	r.Tell(flattened("golden", id))
	r.Tell(flattened("silver", other))
	r.Tell(flattened("nobody's", lost))
	stats(t, r, Stats{Delivered: 2, Unclaimed: 1})
	if n := f.count("list", "persistentvolumes"); n != 1 {
		t.Errorf("%d lists", n)
	}
	if a, b := f.all[0].InvolvedObject.Name, f.all[1].InvolvedObject.Name; a != "data" || b != "more" {
		t.Errorf("on %s and %s", a, b)
	}
}

// The provisioner makes the volume's object after the volume.
func TestVolumeComesLater(t *testing.T) {
	id := store.NewID()
	f := newFakeAPI(t)
	asked := make(chan struct{}, 100)
	f.PrependReactor("get", "persistentvolumes", func(clienttest.Action) (bool, runtime.Object, error) {
		asked <- struct{}{}
		return false, nil, nil
	})
	r := record(t, f.cluster(), Options{})
	r.Tell(flattened("pvc-1", id))
	<-asked
	f.add(volume("pvc-1", testDriver, handleOf(id), "data"))
	if e := f.events(1)[0]; e.InvolvedObject.Name != "data" {
		t.Errorf("on %+v", e.InvolvedObject)
	}
}

// A node knows handles, and where kubelet has published them.
func TestNodeFindsClaimByPath(t *testing.T) {
	id := store.NewID()
	f := newFakeAPI(t, volume("pvc-fs", testDriver, handleOf(id), "files"), volume("pvc-block", testDriver, "handle-b", "block"))
	handle := f.handle("pvc-fs")
	r := record(t, f.cluster(), Options{})
	fenced := func(handle string, paths ...string) {
		r.Tell(Notice{About: Subject{Handle: handle, Paths: paths, Node: "node-a"}, Reason: VolumeFenced, Key: "7", Text: "Fenced."})
	}
	fenced(handle, "/var/lib/kubelet/pods/6c1d/volumes/kubernetes.io~csi/pvc-fs/mount")
	fenced("handle-b", "/elsewhere", "/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-block/6c1d")
	fenced("unknown", "/var/lib/kubelet/pods/6c1d/volumes/kubernetes.io~csi/pvc-fs/mount")
	all := f.events(3)
	for i, want := range []string{"PersistentVolumeClaim ns/files", "PersistentVolumeClaim ns/block", "Node default/node-a"} {
		o := all[i].InvolvedObject
		if got := fmt.Sprintf("%s %s/%s", o.Kind, all[i].Namespace, o.Name); got != want || all[i].Type != corev1.EventTypeWarning {
			t.Errorf("event %d is on %s, a %s, want %s", i, got, all[i].Type, want)
		}
	}
	if o := all[2].InvolvedObject; o.Namespace != "" || o.UID != "node-a" {
		t.Errorf("kubectl does not find the node's event by %+v", o)
	}
	if n := f.count("list", "persistentvolumes"); n != 0 {
		t.Errorf("a node has asked for %d lists", n)
	}
}

func (f *fakeAPI) handle(pv string) string {
	f.Helper()
	o, err := f.core().PersistentVolumes().Get(f.Context(), pv, metav1.GetOptions{})
	if err != nil {
		f.Fatal(err)
	}
	return o.Spec.CSI.VolumeHandle
}

func (f *fakeAPI) core() typed.CoreV1Interface { return f.cluster().core }

// An answer that nothing will change is told, and the next notice goes on.
func TestRefusedEventsAreGivenUp(t *testing.T) {
	id := store.NewID()
	f := newFakeAPI(t, volume("pvc-1", testDriver, handleOf(id), "data"))
	var failed []error
	var mu sync.Mutex
	f.PrependReactor("create", "events", func(a clienttest.Action) (bool, runtime.Object, error) {
		if a.(clienttest.CreateAction).GetObject().(*corev1.Event).Reason == string(FlattenQueued) {
			return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "events"}, "", errors.New("no right"))
		}
		return false, nil, nil
	})
	r := record(t, f.cluster(), Options{Failed: func(err error) { mu.Lock(); failed = append(failed, err); mu.Unlock() }})
	n := flattened("pvc-1", id)
	n.Reason = FlattenQueued
	r.Tell(n)
	r.Tell(flattened("pvc-1", id))
	stats(t, r, Stats{Delivered: 1, Dropped: 1})
	mu.Lock()
	defer mu.Unlock()
	if len(failed) != 1 || !strings.Contains(failed[0].Error(), "PersistentVolumeClaim ns/data") || !apierrors.IsForbidden(failed[0]) {
		t.Errorf("failed with %v", failed)
	}
}
