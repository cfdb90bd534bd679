package kube

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	// listEvery is the shortest time between two lists of all volumes.
	listEvery = time.Minute
	// uidLength is the length of a UID in text.
	uidLength = 36
)

// errNone: no object in the cluster stands for the subject, or not yet.
var errNone = errors.New("not known in the cluster")

// finder finds the objects that users know their volumes by. Used by one goroutine.
type finder struct {
	cluster *Cluster
	driver  string
	now     func() time.Time

	listed  time.Time
	handles map[string]corev1.ObjectReference // of the driver's volumes, as of the last list
}

// find returns the claim or snapshot, or the node in its stead; errNone if there is none.
// With list, all volumes are looked through if none has the right name.
func (f *finder) find(ctx context.Context, s Subject, list bool) (corev1.ObjectReference, error) {
	if s.Snapshot {
		return f.snapshot(ctx, s)
	}
	ref, err := f.named(ctx, s)
	switch {
	case !errors.Is(err, errNone):
		return ref, err
	case s.Node != "":
		// As kubelet names a node in its own events, by which kubectl finds them.
		return corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: s.Node, UID: types.UID(s.Node)}, nil
	case !list:
		return ref, err
	}
	return f.fromList(ctx, s)
}

// named asks for the volumes that the subject may be called by.
func (f *finder) named(ctx context.Context, s Subject) (corev1.ObjectReference, error) {
	names := []string{s.Name}
	for _, p := range s.Paths {
		names = append(names, volumeOf(p))
	}
	asked := map[string]bool{"": true}
	for _, name := range names {
		if asked[name] || len(validation.IsDNS1123Subdomain(name)) > 0 {
			continue
		}
		asked[name] = true
		pv, err := f.cluster.volume(ctx, name)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return corev1.ObjectReference{}, fmt.Errorf("volume %s: %w", name, err)
		}
		if ref, ok := f.claim(pv); ok && s.is(pv.Spec.CSI.VolumeHandle) {
			return ref, nil
		}
	}
	return corev1.ObjectReference{}, errNone
}

// volumeOf is the name of the volume in a path that kubelet publishes it at:
// …/kubernetes.io~csi/NAME/mount, or …/volumeDevices/publish/NAME/POD.
func volumeOf(p string) string {
	dir, name := path.Split(path.Dir(path.Clean(p)))
	dir = path.Clean(dir)
	if path.Base(dir) == "kubernetes.io~csi" || strings.HasSuffix(dir, "/volumeDevices/publish") {
		return name
	}
	return ""
}

// claim is the claim that a volume of the driver is bound to.
func (f *finder) claim(pv *corev1.PersistentVolume) (corev1.ObjectReference, bool) {
	c := pv.Spec.ClaimRef
	if c == nil || pv.Spec.CSI == nil || pv.Spec.CSI.Driver != f.driver {
		return corev1.ObjectReference{}, false
	}
	return corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: c.Namespace, Name: c.Name, UID: c.UID}, true
}

// fromList looks for a volume under another name than the store's.
func (f *finder) fromList(ctx context.Context, s Subject) (corev1.ObjectReference, error) {
	if now := f.now(); f.listed.IsZero() || now.Sub(f.listed) >= listEvery {
		if err := f.list(ctx); err != nil {
			return corev1.ObjectReference{}, err
		}
		f.listed = now
	}
	for handle, ref := range f.handles {
		if s.is(handle) {
			return ref, nil
		}
	}
	return corev1.ObjectReference{}, errNone
}

func (f *finder) list(ctx context.Context) error {
	handles := make(map[string]corev1.ObjectReference)
	err := f.cluster.volumes(ctx, func(pv *corev1.PersistentVolume) {
		if ref, ok := f.claim(pv); ok {
			handles[pv.Spec.CSI.VolumeHandle] = ref
		}
	})
	if err != nil {
		return fmt.Errorf("list of volumes: %w", err)
	}
	f.handles = handles
	return nil
}

// snapshot finds a VolumeSnapshot: the snapshotter names snapshots and their contents by
// its UID, each with a prefix of its own.
func (f *finder) snapshot(ctx context.Context, s Subject) (corev1.ObjectReference, error) {
	none := corev1.ObjectReference{}
	if len(s.Name) < uidLength {
		return none, errNone
	}
	name := "snapcontent-" + s.Name[len(s.Name)-uidLength:]
	if len(validation.IsDNS1123Subdomain(name)) > 0 {
		return none, errNone
	}
	c, err := f.cluster.content(ctx, name)
	if apierrors.IsNotFound(err) {
		return none, errNone
	}
	if err != nil {
		return none, fmt.Errorf("snapshot content %s: %w", name, err)
	}
	if c.Spec.Driver != f.driver || !s.is(c.Status.Handle) || c.Spec.Ref.Name == "" {
		return none, errNone
	}
	ref := c.Spec.Ref
	return corev1.ObjectReference{
		Kind: "VolumeSnapshot", APIVersion: "snapshot.storage.k8s.io/v1", Namespace: ref.Namespace, Name: ref.Name, UID: ref.UID,
	}, nil
}
