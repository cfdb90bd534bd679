package store

import "time"

const (
	// Block is the unit of tracking and the granularity of sizes, in bytes.
	Block = 4096
	// MaxSize is the largest image, in bytes (1 PiB).
	MaxSize = int64(1) << 50
	// MaxName is the longest name, in bytes.
	MaxName = 255
)

// ID names an image or a snapshot for ever; it is never reused. It is a random
// UUID in its canonical lower-case text form.
type ID string

// Kind tells images from snapshots.
type Kind string

const (
	KindImage    Kind = "image"
	KindSnapshot Kind = "snapshot"
)

// State is what an image or snapshot can do now.
type State string

const (
	// StateReady: reads and (for images) writes are served.
	StateReady State = "ready"
	// StateFlattening: ready, and a flatten job exists for it.
	StateFlattening State = "flattening"
	// StateReadOnly: a sync failed; reads are served, writes refused. Durable.
	StateReadOnly State = "read-only"
	// StateFaulty: its data or that of an ancestor cannot be read. See Info.Reason.
	StateFaulty State = "faulty"
)

// Policy says how deep chains may grow. Zero values mean the store's defaults.
type Policy struct {
	// Soft is the depth above which a flatten is queued, in clone links.
	Soft int `json:"soft,omitempty"`
	// Hard is the depth above which a clone is refused with ErrBusy until a
	// flatten is done, in clone links. Hard >= Soft.
	Hard int `json:"hard,omitempty"`
}

// Limits bound the I/O that clients may do on one image, over all their connections.
// Zero fields mean no limit.
type Limits struct {
	// IOPS is requests per second, reads and writes alike.
	IOPS int64 `json:"iops,omitempty"`
	// Bandwidth is bytes per second, read and written together.
	Bandwidth int64 `json:"bandwidth,omitempty"`
}

// Format is what is known of the content of an image. It only moves forward, from
// FormatNone to FormatBegun to the name of a file system to FormatUnknown, and may
// leave steps out; snapshots and clones inherit it, and rolling back changes nothing.
// It guards against formatting an image that holds data.
type Format string

const (
	// FormatNone: nobody has used the image.
	FormatNone Format = ""
	// FormatBegun: a file system is being made; if that was interrupted it may be
	// made again, since nobody has stored anything yet.
	FormatBegun Format = "formatting"
	// FormatUnknown: the image was handed out as a raw device, imported or written by
	// a tool, and may hold anything.
	FormatUnknown Format = "unknown"
)

// Change is what Modifier.Modify sets; nil fields stay as they are.
type Change struct {
	Policy *Policy
	Limits *Limits
	Format *Format
}

// Info describes an image or snapshot as of one instant.
type Info struct {
	ID   ID     `json:"id"`
	Kind Kind   `json:"kind"`
	Name string `json:"name"`
	// Image is the owner of a snapshot, or the image itself.
	Image ID `json:"image"`
	// ImageName is the owner's name; it is kept after the owner was removed.
	ImageName string `json:"imageName"`
	// ImageRemoved: the owner of this snapshot no longer exists.
	ImageRemoved bool `json:"imageRemoved,omitempty"`
	// Parent is the image this one was cloned from, "" without a clone link. It
	// may have been removed since.
	Parent ID `json:"parent,omitempty"`
	// ParentName is the parent as a user writes it: image or image@snapshot.
	ParentName string `json:"parentName,omitempty"`
	// ParentSnapshot is the snapshot cloned from, "" for an internal or removed one.
	ParentSnapshot ID `json:"parentSnapshot,omitempty"`
	// Depth is the number of clone links up to the root.
	Depth int `json:"depth"`
	// Size in bytes, a multiple of Block.
	Size int64 `json:"size"`
	// Overlap in bytes: what is visible of the parent through this image.
	Overlap int64 `json:"overlap,omitempty"`
	// BlockSize is the logical block size offered to clients: 512 or 4096.
	BlockSize int       `json:"blockSize"`
	State     State     `json:"state"`
	Reason    string    `json:"reason,omitempty"`
	Policy    Policy    `json:"policy"`
	Created   time.Time `json:"created"`
	// Snapshots is how many named snapshots an image has.
	Snapshots int `json:"snapshots,omitempty"`
	// Node is where a publication of it exists, "" if none.
	Node string `json:"node,omitempty"`
	// Digest is the caller's fingerprint of the creating request.
	Digest string `json:"digest,omitempty"`
	Limits Limits `json:"limits,omitzero"`
	Format Format `json:"format,omitempty"`
}

// Ref is the name a user types for it: image or image@snapshot.
func (i Info) Ref() string {
	if i.Kind == KindSnapshot {
		return i.ImageName + "@" + i.Name
	}
	return i.Name
}

// Spec asks for a new image.
type Spec struct {
	Name string
	// Size in bytes. 0 with a parent means the parent's size; smaller than the
	// parent's is ErrRange.
	Size int64
	// Parent is the snapshot or image to clone, "" for an empty image.
	Parent ID
	// BlockSize is 512 or 4096; 0 means the parent's, or 4096.
	BlockSize int
	// Policy of the new image; zero fields are inherited from the parent.
	Policy Policy
	// Flatten queues a flatten of the new image whatever its depth, in the same
	// transaction.
	Flatten bool
	// Limits of the new image; they are not inherited.
	Limits Limits
	// Digest makes the request idempotent: an existing image of that name with the
	// same digest is returned instead of ErrConflict. Opaque, at most 256 bytes.
	Digest string
}

// Usage is what an object costs, in bytes. Zero blocks cost nothing.
type Usage struct {
	ID ID `json:"id"`
	// Size is the nominal size.
	Size int64 `json:"size"`
	// Own is data that only this object keeps alive.
	Own int64 `json:"own"`
	// Shared is data visible here that other objects keep alive too.
	Shared int64 `json:"shared"`
	// Retained is data of removed objects that is kept because this object (and
	// perhaps others) still reads it. It is part of Own or Shared.
	Retained int64 `json:"retained"`
	// RetainedFor names the removed objects and why they are kept.
	RetainedFor []string `json:"retainedFor,omitempty"`
}

// Extent is a run of bytes and what is known of it.
type Extent struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
	// Data is true where bytes are stored, here or in an ancestor.
	Data bool `json:"data"`
	// Zero is true where the run is known to read as zero.
	Zero bool `json:"zero"`
	// Depth counts where the run lives, as qemu:allocation-depth does: 0 nowhere,
	// 1 in the image's own newest part, more the further below.
	Depth int `json:"depth"`
	// Changed is set only when a base was asked for: the run was written,
	// discarded or zeroed since that snapshot. It may err towards true.
	Changed bool `json:"changed,omitempty"`
}

// Access is what a publication allows.
type Access string

const (
	// AccessWrite: reading and writing, by one node.
	AccessWrite Access = "write"
	// AccessShared: reading and writing, beside other nodes with the same access
	// that agree among themselves who writes what.
	AccessShared Access = "shared"
	// AccessRead: reading, beside others that read.
	AccessRead Access = "read"
	// AccessScratch: reading, beside others that read, through a private head that
	// takes writes and is thrown away with the publication. It is how a file system
	// that has to replay its journal is mounted read-only.
	AccessScratch Access = "scratch"
)

// Writes tells whether the access changes the object itself.
func (a Access) Writes() bool { return a == AccessWrite || a == AccessShared }

// Valid tells whether a is one of the constants.
func (a Access) Valid() bool { return a.Writes() || a == AccessRead || a == AccessScratch }

// Publication is the right of one node to one image or snapshot.
type Publication struct {
	ID     ID     `json:"id"`
	Node   string `json:"node"`
	Access Access `json:"access"`
	// Target is what the node attaches: ID itself, or the private head of
	// AccessScratch.
	Target ID `json:"target"`
	// Epoch rises with every new publication of the image; it is public.
	Epoch uint64 `json:"epoch"`
	// Token is the secret of this epoch: 32 lower-case hex digits (128 bits).
	Token string `json:"token"`
	// Connected: the store that answers has an open connection of the node. It is not
	// durable, and never set where nothing is served.
	Connected bool `json:"connected,omitempty"`
}

// JobKind is what a background job does.
type JobKind string

const (
	JobFlatten JobKind = "flatten"
	JobMerge   JobKind = "merge"
	JobDelete  JobKind = "delete"
	JobScrub   JobKind = "scrub"
)

// JobState is where a background job stands.
type JobState string

const (
	JobQueued  JobState = "queued"
	JobRunning JobState = "running"
	JobPaused  JobState = "paused"
	JobDone    JobState = "done"
	JobFailed  JobState = "failed"
)

// Job is one durable piece of background work.
type Job struct {
	ID   string  `json:"id"`
	Kind JobKind `json:"kind"`
	// Target is the image (flatten) or an internal object (merge, delete).
	Target string   `json:"target"`
	State  JobState `json:"state"`
	// Done and Total are bytes examined, of the range the job covers.
	Done  int64 `json:"done"`
	Total int64 `json:"total"`
	// Copied is bytes really copied or shared so far.
	Copied int64  `json:"copied"`
	Urgent bool   `json:"urgent,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Problem is one finding of a check.
type Problem struct {
	// Object is an image or snapshot reference, or an internal object.
	Object string `json:"object"`
	Text   string `json:"text"`
	// Harmless findings cost space at most; the others mean damage.
	Harmless bool `json:"harmless,omitempty"`
}

// Status is the state of a whole store.
type Status struct {
	UUID    string `json:"uuid"`
	Backend string `json:"backend"`
	Version string `json:"version"`
	// Node is the node or host on which the store runs, "" if it does not say. It
	// changes when the store moves.
	Node string `json:"node,omitempty"`
	// Images and Snapshots count live ones.
	Images    int `json:"images"`
	Snapshots int `json:"snapshots"`
	// Layers counts internal layers, live and retained.
	Layers int `json:"layers"`
	// Total and Free are bytes of the file system below.
	Total int64 `json:"total"`
	Free  int64 `json:"free"`
	// Copied is bytes that background work copied since the store was opened.
	Copied int64 `json:"copied"`
	Jobs   []Job `json:"jobs"`
	// Faulty names objects that are refused, and those in which a scrub has found
	// damage, with reasons.
	Faulty []Problem `json:"faulty,omitempty"`
	// Warnings are for the operator (missing privileges, low space).
	Warnings []string `json:"warnings,omitempty"`
}
