package meta

import (
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// Snapshot reads one snapshot.
func (t *Tx) Snapshot(id store.ID) (Snapshot, error) {
	s, ok, err := t.snapshot(id)
	if err == nil && !ok {
		err = notFound("snapshot", id)
	}
	return s, err
}

func (t *Tx) snapshot(id store.ID) (s Snapshot, ok bool, err error) {
	if id == "" {
		return s, false, nil
	}
	ok, err = t.getJSON(bSnapshots, []byte(id), &s)
	return s, ok, err
}

// SnapshotByName reads the snapshot of that name of one image, removed or not.
func (t *Tx) SnapshotByName(image store.ID, name string) (Snapshot, error) {
	id, err := t.get(bSnapNames, scopedKey(image, name))
	if err != nil {
		return Snapshot{}, err
	}
	if id == nil {
		return Snapshot{}, notFound("snapshot", fmt.Sprintf("%q of image %s", name, image))
	}
	s, ok, err := t.snapshot(store.ID(id))
	if err == nil && (!ok || s.Name != name || s.Image != image) {
		err = dangling("name", name, "snapshot", string(id))
	}
	return s, err
}

// PutSnapshot writes a snapshot, binds its name and moves it in the index of its
// layer. store.ErrConflict if another snapshot of the image has the name;
// store.ErrBusy if the layer is new to it and takes no new reference.
func (t *Tx) PutSnapshot(s Snapshot) error {
	if err := checkKey("snapshot id", string(s.ID)); err != nil {
		return err
	}
	if err := checkKey("snapshot name", s.Name); err != nil {
		return err
	}
	if err := t.snapshotNameFree(s); err != nil {
		return err
	}
	old, had, err := t.snapshot(s.ID)
	if err != nil {
		return err
	}
	if !had || old.Layer != s.Layer {
		if err := t.takesReference(s.Layer); err != nil {
			return fmt.Errorf("snapshot %s: %w", s.ID, err)
		}
	}
	if had {
		if err := t.unindexSnapshot(old); err != nil {
			return err
		}
	} else if _, err := t.addCounter(bSnapshots, 1); err != nil {
		return err
	}
	if err := t.indexSnapshot(s); err != nil {
		return err
	}
	return t.putJSON(bSnapshots, []byte(s.ID), s)
}

func (t *Tx) snapshotNameFree(s Snapshot) error {
	id, err := t.get(bSnapNames, scopedKey(s.Image, s.Name))
	if err == nil && id != nil && store.ID(id) != s.ID {
		err = fmt.Errorf("snapshot %q of image %s: %w", s.Name, s.Image, store.ErrConflict)
	}
	return err
}

func (t *Tx) indexSnapshot(s Snapshot) error {
	if err := t.put(bSnapNames, scopedKey(s.Image, s.Name), []byte(s.ID)); err != nil {
		return err
	}
	return t.put(bSnapLayers, snapLayerKey(s.Layer, s.ID), []byte{})
}

func (t *Tx) unindexSnapshot(s Snapshot) error {
	if err := t.del(bSnapNames, scopedKey(s.Image, s.Name)); err != nil {
		return err
	}
	return t.del(bSnapLayers, snapLayerKey(s.Layer, s.ID))
}

// DeleteSnapshot forgets a snapshot. Its layer stays.
func (t *Tx) DeleteSnapshot(id store.ID) error {
	s, err := t.Snapshot(id)
	if err != nil {
		return err
	}
	if err := t.unindexSnapshot(s); err != nil {
		return err
	}
	if _, err := t.addCounter(bSnapshots, -1); err != nil {
		return err
	}
	return t.del(bSnapshots, []byte(id))
}

// SnapshotsOf lists the snapshots of an image in the order of names.
func (t *Tx) SnapshotsOf(image store.ID) ([]Snapshot, error) {
	return t.snapshotsBelow(bSnapNames, scopedPrefix(image), func(_, v []byte) store.ID { return store.ID(v) })
}

// SnapshotsOn lists the snapshots whose view is that layer, in the order of ids.
func (t *Tx) SnapshotsOn(layer LayerID) ([]Snapshot, error) {
	return t.snapshotsBelow(bSnapLayers, layerKey(layer), func(k, _ []byte) store.ID { return store.ID(k[8:]) })
}

func (t *Tx) snapshotsBelow(b bucket, prefix []byte, idOf func(k, v []byte) store.ID) ([]Snapshot, error) {
	var out []Snapshot
	err := t.scan(b, prefix, func(k, v []byte) (bool, error) {
		id := idOf(k, v)
		s, ok, err := t.snapshot(id)
		if err == nil && !ok {
			err = dangling(b.String(), fmt.Sprintf("%x", k), "snapshot", string(id))
		}
		out = append(out, s)
		return true, err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// SnapshotCount counts the snapshots of an image, in O(answer) and without reading
// their rows.
func (t *Tx) SnapshotCount(image store.ID) (n int, err error) {
	err = t.scan(bSnapNames, scopedPrefix(image), func(_, _ []byte) (bool, error) {
		n++
		return true, nil
	})
	return n, err
}
