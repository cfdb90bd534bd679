package kube

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/strata-csi/strata/pkg/store"
)

func TestEventOnClaim(t *testing.T) {
	id := store.NewID()
	s := newServer(t, volume("pvc-1", testDriver, handleOf(id), "data"))
	r := record(t, s.cluster(), Options{Host: "node-a"})
	at := time.Unix(1_800_000_000, 0)
	n := flattened("pvc-1", id)
	n.At, n.Text = at, strings.Repeat("ü", 2000)
	n.Reason = FlattenFailed
	// Younger than its age only if that is long.
	r.opts.Age = 1 << 62
	r.Tell(n)
	e := s.told(1)[0]
	o := e.InvolvedObject
	if o.Kind != "PersistentVolumeClaim" || o.APIVersion != "v1" || o.Namespace != "ns" || o.Name != "data" || o.UID != "uid-of-claim" || e.Namespace != "ns" {
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
	if e := s.told(2)[1]; e.Type != corev1.EventTypeNormal {
		t.Errorf("%s is a %s", e.Reason, e.Type)
	}
}

// Two processes that see the same, and one that starts anew, tell it once.
func TestSameNoticeIsOneEvent(t *testing.T) {
	id := store.NewID()
	s := newServer(t, volume("pvc-1", testDriver, handleOf(id), "data"))
	one, two := record(t, s.cluster(), Options{}), record(t, s.cluster(), Options{})
	for range 3 {
		one.Tell(flattened("pvc-1", id))
		two.Tell(flattened("pvc-1", id))
	}
	stats(t, one, Stats{Delivered: 1})
	stats(t, two, Stats{Delivered: 1})
	if all := s.told(1); len(all) != 1 {
		t.Errorf("%d events", len(all))
	}
	again := flattened("pvc-1", id)
	again.Key = "2"
	one.Tell(again)
	s.told(2)
}

// Other drivers' volumes, and another volume of the same name, are left alone.
func TestOnlyTheRightVolume(t *testing.T) {
	ids := []store.ID{store.NewID(), store.NewID(), store.NewID(), store.NewID()}
	s := newServer(t,
		volume("other", "csi.other", handleOf(ids[0]), "a"), volume("replaced", testDriver, handleOf(store.NewID()), "b"),
		volume("unbound", testDriver, handleOf(ids[2]), ""), &corev1.PersistentVolume{TypeMeta: metav1.TypeMeta{Kind: "PersistentVolume", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "nfs"}})
	r := record(t, s.cluster(), Options{Age: 50 * time.Millisecond})
	for i, name := range []string{"other", "replaced", "unbound", "nfs", "Not/A Name", ""} {
		r.Tell(flattened(name, ids[min(i, 3)]))
	}
	r.Tell(Notice{About: Subject{Name: "nfs"}, Reason: FlattenDone})
	stats(t, r, Stats{Unclaimed: 5})
	if all := s.told(0); len(all) != 0 {
		t.Errorf("events %v", all)
	}
}

// A volume that was not made by the provisioner has another name; it is looked for in a
// list, which is not asked for again for a while.
func TestStaticVolumeIsFoundInList(t *testing.T) {
	id, other, lost := store.NewID(), store.NewID(), store.NewID()
	s := newServer(t, volume("static-pv", testDriver, handleOf(id), "data"), volume("second", testDriver, handleOf(other), "more"))
	r := record(t, s.cluster(), Options{Age: 200 * time.Millisecond})
	r.Tell(flattened("golden", id))
	r.Tell(flattened("silver", other))
	r.Tell(flattened("nobody's", lost))
	stats(t, r, Stats{Delivered: 2, Unclaimed: 1})
	if n := s.count("list"); n != 1 {
		t.Errorf("%d lists", n)
	}
	if a, b := s.events[0].InvolvedObject.Name, s.events[1].InvolvedObject.Name; a+b != "datamore" && a+b != "moredata" {
		t.Errorf("on %s and %s", a, b)
	}
}

// The provisioner makes the volume's object after the volume.
func TestVolumeComesLater(t *testing.T) {
	id := store.NewID()
	s := newServer(t)
	r := record(t, s.cluster(), Options{})
	r.Tell(flattened("pvc-1", id))
	<-s.asked
	s.add(volume("pvc-1", testDriver, handleOf(id), "data"))
	if e := s.told(1)[0]; e.InvolvedObject.Name != "data" {
		t.Errorf("on %+v", e.InvolvedObject)
	}
}

// A node knows handles, and where kubelet has published them.
func TestNodeFindsClaimByPath(t *testing.T) {
	id := store.NewID()
	s := newServer(t, volume("pvc-fs", testDriver, handleOf(id), "files"), volume("pvc-block", testDriver, "handle-b", "block"))
	handle := s.volumes["pvc-fs"].Spec.CSI.VolumeHandle
	r := record(t, s.cluster(), Options{})
	fenced := func(handle string, paths ...string) {
		r.Tell(Notice{About: Subject{Handle: handle, Paths: paths, Node: "node-a"}, Reason: VolumeFenced, Key: "7", Text: "Fenced."})
	}
	fenced(handle, "/var/lib/kubelet/pods/6c1d/volumes/kubernetes.io~csi/pvc-fs/mount")
	fenced("handle-b", "/elsewhere", "/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-block/6c1d")
	fenced("unknown", "/var/lib/kubelet/pods/6c1d/volumes/kubernetes.io~csi/pvc-fs/mount")
	all := s.told(3)
	for i, want := range []string{"PersistentVolumeClaim ns/files", "PersistentVolumeClaim ns/block", "Node default/node-a"} {
		o := all[i].InvolvedObject
		if got := fmt.Sprintf("%s %s/%s", o.Kind, all[i].Namespace, o.Name); got != want || all[i].Type != corev1.EventTypeWarning {
			t.Errorf("event %d is on %s, a %s, want %s", i, got, all[i].Type, want)
		}
	}
	if o := all[2].InvolvedObject; o.Namespace != "" || o.UID != "node-a" {
		t.Errorf("kubectl does not find the node's event by %+v", o)
	}
	if n := s.count("list"); n != 0 {
		t.Errorf("a node has asked for %d lists", n)
	}
}

// An answer that nothing will change is told, and the next notice goes on.
func TestRefusedEventsAreGivenUp(t *testing.T) {
	id := store.NewID()
	s := newServer(t, volume("pvc-1", testDriver, handleOf(id), "data"))
	var failed []error
	var mu sync.Mutex
	s.refuse = FlattenQueued
	r := record(t, s.cluster(), Options{Failed: func(err error) { mu.Lock(); failed = append(failed, err); mu.Unlock() }})
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

func TestEventOnSnapshot(t *testing.T) {
	id := store.NewID()
	s := newServer(t)
	s.handles["snapcontent-"+string(id)] = "s1:p:" + string(id) + ":x"
	r := record(t, s.cluster(), Options{Age: time.Second})
	for _, name := range []string{"snapshot-" + string(id), "prefix-of-mine-" + string(id), "nightly", "snapshot-" + string(store.NewID())} {
		r.Tell(Notice{About: Subject{Snapshot: true, Name: name, UUID: string(id)}, Reason: FlattenDone, Key: name})
	}
	r.Tell(Notice{About: Subject{Snapshot: true, Name: "snapshot-" + string(id), UUID: string(store.NewID())}, Reason: FlattenDone})
	stats(t, r, Stats{Delivered: 2, Unclaimed: 3})
	o := s.events[0].InvolvedObject
	if o.Kind != "VolumeSnapshot" || o.APIVersion != "snapshot.storage.k8s.io/v1" || o.Namespace != "ns" || o.Name != "backup" || o.UID != "u" {
		t.Errorf("on %+v", o)
	}
}
