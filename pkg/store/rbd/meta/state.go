package meta

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
)

// State is all rows as of one generation. It must not be changed but through a Tx.
type State struct {
	Meta    Meta
	Images  map[store.ID]Image
	Snaps   map[store.ID]Snapshot
	Pubs    map[string]store.Publication // by key
	Jobs    map[string]Job
	Intents map[string]Intent
	Cuts    map[string]Cut
	Notes   map[string]string
	Members map[string]Member

	raw    map[string][]byte
	byName map[string]store.ID          // images that have a name: live and making
	kids   map[store.ID]set             // children by their parent image
	snaps  map[store.ID]set             // snapshots by their image
	pubsOf map[store.ID]map[string]bool // keys of publications by their object
}

type set map[store.ID]bool

func newState() *State {
	return &State{
		Images: map[store.ID]Image{}, Snaps: map[store.ID]Snapshot{}, Pubs: map[string]store.Publication{},
		Jobs: map[string]Job{}, Intents: map[string]Intent{}, Cuts: map[string]Cut{}, Notes: map[string]string{}, Members: map[string]Member{},
		raw: map[string][]byte{}, byName: map[string]store.ID{}, kids: map[store.ID]set{}, snaps: map[store.ID]set{},
		pubsOf: map[store.ID]map[string]bool{},
	}
}

// apply sets a row, or forgets it if raw is nil.
func (s *State) apply(key string, raw []byte) error {
	kind, rest, _ := strings.Cut(key, "/")
	s.unindex(kind, key, rest)
	if raw == nil {
		delete(s.raw, key)
		return nil
	}
	s.raw[key] = raw
	if err := s.index(kind, key, rest, raw); err != nil {
		return fmt.Errorf("row %q of the catalogue: %w: %w", key, err, store.ErrCorrupt)
	}
	return nil
}

func (s *State) unindex(kind, key, rest string) {
	id := store.ID(rest)
	switch kind {
	case "image":
		old, ok := s.Images[id]
		if !ok {
			return
		}
		if s.byName[old.Name] == id {
			delete(s.byName, old.Name)
		}
		if old.Parent != nil {
			remove(s.kids, old.Parent.Image, id)
		}
		delete(s.Images, id)
	case "snap":
		remove(s.snaps, s.Snaps[id].Image, id)
		delete(s.Snaps, id)
	case "pub":
		if p, ok := s.Pubs[key]; ok {
			delete(s.pubsOf[p.ID], key)
			delete(s.Pubs, key)
		}
	case "job":
		delete(s.Jobs, rest)
	case "intent":
		delete(s.Intents, rest)
	case "cut":
		delete(s.Cuts, rest)
	case "note":
		delete(s.Notes, unhex(rest))
	case "member":
		delete(s.Members, unhex(rest))
	}
}

func (s *State) index(kind, key, rest string, raw []byte) (err error) {
	switch kind {
	case "meta":
		return json.Unmarshal(raw, &s.Meta)
	case "image":
		var i Image
		if err = json.Unmarshal(raw, &i); err != nil {
			return err
		}
		s.Images[i.ID] = i
		if i.Phase != Removed && !i.Head() {
			s.byName[i.Name] = i.ID
		}
		if i.Parent != nil {
			add(s.kids, i.Parent.Image, i.ID)
		}
	case "snap":
		var n Snapshot
		if err = json.Unmarshal(raw, &n); err != nil {
			return err
		}
		s.Snaps[n.ID] = n
		add(s.snaps, n.Image, n.ID)
	case "pub":
		var p store.Publication
		if err = json.Unmarshal(raw, &p); err != nil {
			return err
		}
		s.Pubs[key] = p
		if s.pubsOf[p.ID] == nil {
			s.pubsOf[p.ID] = map[string]bool{}
		}
		s.pubsOf[p.ID][key] = true
	case "job":
		s.Jobs[rest], err = decode[Job](raw)
	case "intent":
		s.Intents[rest], err = decode[Intent](raw)
	case "cut":
		s.Cuts[rest], err = decode[Cut](raw)
	case "note":
		s.Notes[unhex(rest)] = string(raw)
	case "member":
		s.Members[unhex(rest)], err = decode[Member](raw)
	}
	return err
}

func decode[R any](raw []byte) (row R, err error) {
	err = json.Unmarshal(raw, &row)
	return row, err
}

func unhex(s string) string {
	b, _ := hex.DecodeString(s) // what is not hexadecimal was never written by us
	return string(b)
}

func add(m map[store.ID]set, key, id store.ID) {
	if m[key] == nil {
		m[key] = set{}
	}
	m[key][id] = true
}

func remove(m map[store.ID]set, key, id store.ID) {
	if delete(m[key], id); len(m[key]) == 0 {
		delete(m, key)
	}
}

// Named returns the image that has a name, live or in the making.
func (s *State) Named(name string) (Image, bool) {
	id, ok := s.byName[name]
	return s.Images[id], ok
}

// InCluster finds the image that stands for one in the cluster; place is "" for one of the
// installation's own pool and namespace.
func (s *State) InCluster(place, clusterID string) (Image, bool) {
	for _, i := range s.Images {
		if i.ClusterID == clusterID && i.Place == place {
			return i, true
		}
	}
	return Image{}, false
}

// Kids lists the images whose parent is the given one, whatever their phase.
func (s *State) Kids(id store.ID) []Image {
	var list []Image
	for _, k := range slices.Sorted(maps.Keys(s.kids[id])) {
		list = append(list, s.Images[k])
	}
	return list
}

// SnapsOf lists the snapshots of an image, whatever their phase, oldest first.
func (s *State) SnapsOf(id store.ID) []Snapshot {
	var list []Snapshot
	for k := range s.snaps[id] {
		list = append(list, s.Snaps[k])
	}
	slices.SortFunc(list, func(a, b Snapshot) int { return a.Seq - b.Seq })
	return list
}

// PubsOf lists the publications of an object, by node.
func (s *State) PubsOf(id store.ID) []store.Publication {
	var list []store.Publication
	for k := range s.pubsOf[id] {
		list = append(list, s.Pubs[k])
	}
	slices.SortFunc(list, func(a, b store.Publication) int { return strings.Compare(a.Node, b.Node) })
	return list
}

// Leaves tells whether a member has something that others wait for.
func (s *State) Leaves(member string) bool {
	for _, i := range s.Intents {
		if i.Owner == member {
			return true
		}
	}
	for _, j := range s.Jobs {
		if j.Owner == member {
			return true
		}
	}
	return len(s.CutsFor(member)) > 0
}
