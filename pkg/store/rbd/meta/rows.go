package meta

import (
	"encoding/hex"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// Phase is where the life of an image or snapshot stands.
type Phase string

const (
	// Making: its parts in the cluster are not complete.
	Making Phase = "making"
	// Live: it is there for everybody.
	Live Phase = ""
	// Removed: nobody sees it any more, something may still need it.
	Removed Phase = "removed"
)

// Link is a clone link.
type Link struct {
	Image    store.ID `json:"image"`
	Snapshot store.ID `json:"snapshot"`
	// Name is the snapshot's name, "" for an internal one.
	Name string `json:"name,omitempty"`
}

// Image is the row of an image.
type Image struct {
	ID   store.ID `json:"id"`
	Name string   `json:"name"`
	// Cluster is the image's name in the cluster.
	Cluster string `json:"cluster"`
	// ClusterID is its id there; known once the image is about to go to the trash.
	ClusterID string `json:"clusterID,omitempty"`
	Trashed   bool   `json:"trashed,omitempty"`
	// Adopted: others made it, and it is still called what they called it. Its ClusterID
	// is known from the start, and is what it is found by.
	Adopted bool `json:"adopted,omitempty"`
	// Shallow: it lacks deep-flatten, so its snapshots keep a clone link that its flatten
	// has cut.
	Shallow bool `json:"shallow,omitempty"`
	// Held: nothing here needs it any more, but a clone that others have made does.
	Held bool `json:"held,omitempty"`
	// Place is set of an ancestor that belongs to others: pool and namespace. Such a row
	// only stands for a part of a lineage; nothing in the cluster is changed because of it.
	Place string `json:"place,omitempty"`
	Phase Phase  `json:"phase,omitempty"`
	// Order is the power of two that an object of the image has bytes.
	Order int `json:"order"`
	// Size and Overlap are bytes.
	Size      int64        `json:"size"`
	Overlap   int64        `json:"overlap,omitempty"`
	Parent    *Link        `json:"parent,omitempty"`
	BlockSize int          `json:"blockSize"`
	Policy    store.Policy `json:"policy"`
	Limits    store.Limits `json:"limits,omitzero"`
	Format    store.Format `json:"format,omitempty"`
	Digest    string       `json:"digest,omitempty"`
	Created   time.Time    `json:"created"`
	// Epoch is that of the last publication.
	Epoch uint64 `json:"epoch,omitempty"`
	// Era counts roll-backs: object maps of different eras say nothing of each other.
	Era int `json:"era,omitempty"`
	// Seq numbers the image's snapshots.
	Seq int `json:"seq,omitempty"`
	// Source and Node: it is the private head of Source's publication to Node.
	Source store.ID `json:"source,omitempty"`
	Node   string   `json:"node,omitempty"`
}

// Head tells whether the image is the private head of a publication.
func (i Image) Head() bool { return i.Source != "" }

// Foreign tells whether the image belongs to others.
func (i Image) Foreign() bool { return i.Place != "" }

// Snapshot is the row of a snapshot.
type Snapshot struct {
	ID    store.ID `json:"id"`
	Image store.ID `json:"image"`
	Name  string   `json:"name"`
	// Cluster is the snapshot's name in the cluster, of a foreign one its number there.
	Cluster string `json:"cluster"`
	// Number is that in the cluster, known of a snapshot that was adopted.
	Number uint64 `json:"number,omitempty"`
	// Held: removed, but a clone that others have made still needs it.
	Held bool `json:"held,omitempty"`
	// Internal: made for clones of the image; nobody sees it.
	Internal bool         `json:"internal,omitempty"`
	Phase    Phase        `json:"phase,omitempty"`
	Size     int64        `json:"size"`
	Overlap  int64        `json:"overlap,omitempty"`
	Format   store.Format `json:"format,omitempty"`
	Created  time.Time    `json:"created"`
	Epoch    uint64       `json:"epoch,omitempty"`
	Era      int          `json:"era,omitempty"`
	Seq      int          `json:"seq"`
}

// Job is the row of a background job.
type Job struct {
	store.Job
	// Owner is the member that runs it.
	Owner string `json:"owner"`
}

// Op is what an intent is about.
type Op string

const (
	// OpCreate makes an image, perhaps with an internal snapshot of its parent. It is
	// taken back when it was interrupted.
	OpCreate Op = "create"
	// OpSnapshot makes a snapshot. It is taken back.
	OpSnapshot Op = "snapshot"
	// OpShrink makes an image smaller. It is carried on, as data may be gone already.
	OpShrink Op = "shrink"
	// OpRevert rolls an image back. It is carried on.
	OpRevert Op = "revert"
	// OpAdopt marks an image of others as the installation's. It is taken back: the mark
	// goes, the image stays.
	OpAdopt Op = "adopt"
)

// Intent is the row of a change of several steps that has begun.
type Intent struct {
	ID string `json:"id"`
	Op Op     `json:"op"`
	// Owner is the member that does it.
	Owner string `json:"owner"`
	// Object is the image that nobody else may change meanwhile, if there is one.
	Object store.ID `json:"object,omitempty"`
	// Image and Snapshot are what is made, or rolled back to.
	Image    store.ID `json:"image,omitempty"`
	Snapshot store.ID `json:"snapshot,omitempty"`
	Size     int64    `json:"size,omitempty"`
	// ClusterID is that of the image that is adopted.
	ClusterID string `json:"clusterID,omitempty"`
}

// Cut is the row of a clone link that was cut while gateways may have descendants of the
// image open. The library does not tell an open image that its grandparent has a parent
// no more: it goes on reading there. So what was the parent stays until each gateway has
// opened those images anew.
type Cut struct {
	ID string `json:"id"`
	// Image was flattened; Link led from it to its parent.
	Image store.ID `json:"image"`
	Link  Link     `json:"link"`
	// Waiting are the members that have not opened anew.
	Waiting []string `json:"waiting"`
}

// Member is the row of a gateway.
type Member struct {
	Name string `json:"name"`
	// Addresses are those of its client in the cluster, for fencing.
	Addresses string    `json:"addresses"`
	Since     time.Time `json:"since"`
	// Clean: it was closed in order.
	Clean bool `json:"clean,omitempty"`
}

// Meta is the row of the installation itself.
type Meta struct {
	UUID    string `json:"uuid"`
	Version int    `json:"version"`
}

// Version is the format of the rows. Since 2 there are images that belong to others, or
// have their names; catalogues of 1 become such by the first adoption.
const Version = 2

// Keys. What users choose is written in hexadecimal, which keeps its order.
func imageKey(id store.ID) string { return "image/" + string(id) }
func snapKey(id store.ID) string  { return "snap/" + string(id) }
func pubKey(id store.ID, node string) string {
	return "pub/" + string(id) + "/" + hex.EncodeToString([]byte(node))
}
func noteKey(key string) string    { return "note/" + hex.EncodeToString([]byte(key)) }
func jobKey(id string) string      { return "job/" + id }
func cutKey(id string) string      { return "cut/" + id }
func intentKey(id string) string   { return "intent/" + id }
func memberKey(name string) string { return "member/" + hex.EncodeToString([]byte(name)) }

// MetaKey is the key of the installation's own row.
const MetaKey = "meta/"
