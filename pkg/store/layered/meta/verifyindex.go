package meta

import (
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// checkIndexes builds every index anew from the rows and compares.
func (v *verifier) checkIndexes() {
	want := [bucketCount]map[string]string{}
	for _, b := range []bucket{bNames, bRemoved, bRoots, bSnapNames, bSnapLayers, bChildren, bOwnLayers} {
		want[b] = map[string]string{}
	}
	for _, id := range sorted(v.images) {
		img := v.images[id]
		if !img.named() {
			want[bRemoved][string(id)] = ""
		} else {
			if other, taken := want[bNames][img.Name]; taken {
				v.damage("image "+string(id), "has the name %q of image %s", img.Name, other)
			}
			want[bNames][img.Name] = string(id)
		}
		want[bRoots][string(id)] = string(layerKey(img.Root))
	}
	for _, id := range sorted(v.snapshots) {
		s := v.snapshots[id]
		key := string(scopedKey(s.Image, s.Name))
		if other, taken := want[bSnapNames][key]; taken {
			v.damage("snapshot "+string(id), "has the name %q of snapshot %s", s.Name, other)
		}
		want[bSnapNames][key] = string(id)
		want[bSnapLayers][string(snapLayerKey(s.Layer, id))] = ""
	}
	for id, l := range v.layers {
		if l.Parent != 0 {
			want[bChildren][string(childKey(l.Parent, id))] = ""
		}
		want[bOwnLayers][string(ownLayerKey(l.Image, id))] = ""
	}
	for b, entries := range want {
		if entries != nil {
			v.compareIndex(bucket(b), entries)
		}
	}
}

func (v *verifier) compareIndex(b bucket, want map[string]string) {
	v.try("catalogue", v.t.scan(b, nil, func(k, value []byte) (bool, error) {
		expected, ok := want[string(k)]
		switch {
		case !ok:
			v.damage(fmt.Sprintf("index %s", b), "entry %q belongs to no row", k)
		case expected != string(value):
			v.damage(fmt.Sprintf("index %s", b), "entry %q says %q, the row says %q", k, value, expected)
		}
		delete(want, string(k))
		return true, nil
	}))
	for _, k := range sorted(want) {
		v.damage(fmt.Sprintf("index %s", b), "entry %q is missing", k)
	}
}

func (v *verifier) checkCounts() {
	images, snapshots, layers, err := v.t.Counts()
	v.try("catalogue", err)
	live := 0
	for _, img := range v.images {
		if img.named() {
			live++
		}
	}
	if err == nil && (images != live || snapshots != len(v.snapshots) || layers != len(v.layers)) {
		v.damage("catalogue", "counts %d images, %d snapshots, %d layers; there are %d, %d, %d",
			images, snapshots, layers, live, len(v.snapshots), len(v.layers))
	}
}

func (v *verifier) checkPublications() {
	v.eachRow(bPubs, func(k, content []byte) error {
		p, err := decodePublication(k, content)
		if err != nil {
			return err
		}
		id, node, err := splitScoped(k)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("publication of %s to %s", id, node)
		if p.ID != id || p.Node != string(node) {
			v.damage(name, "its row says %s to %s", p.ID, p.Node)
		}
		img, isImage := v.images[id]
		snap, isSnapshot := v.snapshots[id]
		switch {
		case isSnapshot:
			img = v.images[snap.Image]
		case !isImage:
			v.damage(name, "there is no such image or snapshot")
			return nil
		case img.Removed:
			v.damage(name, "the image is removed")
		}
		if isImage && p.Epoch > img.Epoch {
			v.damage(name, "epoch %d was never handed out, the last was %d", p.Epoch, img.Epoch)
		}
		v.checkTarget(name, p)
		return nil
	})
	for _, id := range sorted(v.scratch) {
		v.damage("image "+string(id), "is the private head of no publication")
	}
}

// checkTarget requires that a publication leads to what it gives.
func (v *verifier) checkTarget(name string, p Publication) {
	head := v.images[p.Target]
	switch {
	case p.Access != store.AccessScratch && p.Target != p.ID:
		v.damage(name, "gives %s", p.Target)
	case p.Access == store.AccessScratch && (!head.Scratch || head.Removed || head.Origin != p.ID):
		v.damage(name, "its private head %s is not there or not its own", p.Target)
	}
	delete(v.scratch, p.Target)
}

func (v *verifier) checkIntents() {
	last, err := v.t.counter(bIntents)
	v.try("catalogue", err)
	v.eachRow(bIntents, func(k, content []byte) error {
		var i Intent
		if err := decodeJSON(bIntents, k, content, &i); err != nil {
			return err
		}
		name := fmt.Sprintf("intent %d", i.ID)
		if string(u64(i.ID)) != string(k) || i.ID > last {
			v.damage(name, "is stored under %x, the last id given is %d", k, last)
		}
		for _, id := range []LayerID{i.Layer, i.Other} {
			if _, ok := v.layers[id]; id != 0 && !ok {
				v.harmless(name, "names layer %d, which does not exist", id)
			}
		}
		if _, ok := v.images[i.Image]; i.Image != "" && !ok {
			v.harmless(name, "names image %s, which does not exist", i.Image)
		}
		return nil
	})
}
