package store

import "context"

// Store manages images, snapshots and clones. All methods may be called
// concurrently. An error leaves the store as it was.
type Store interface {
	// Create makes an image; with Spec.Parent set it is a clone, made in O(1).
	// ErrInvalid, ErrRange, ErrNotFound (parent), ErrConflict (name), ErrNoSpace,
	// ErrBusy when the clone would be deeper than the hard limit.
	Create(ctx context.Context, spec Spec) (Info, error)
	// Snapshot freezes the image as it is now, in O(1), under live I/O. Every write
	// answered before the call is in it, none begun after it returned is.
	// An equal name on the same image is ErrConflict.
	Snapshot(ctx context.Context, image ID, name string) (Info, error)
	// Stat describes one object.
	Stat(ctx context.Context, id ID) (Info, error)
	// Lookup resolves "image" or "image@snapshot".
	Lookup(ctx context.Context, ref string) (Info, error)
	// Walk calls fn for every image and snapshot, images before their snapshots,
	// in the order of names. An error of fn ends the walk and is returned.
	Walk(ctx context.Context, fn func(Info) error) error
	// Resize changes an image's size under live I/O. What is cut off by a shrink
	// never reappears.
	Resize(ctx context.Context, image ID, size int64) (Info, error)
	// Flatten cuts the image's clone link and returns when that is done or the
	// context ends; in the latter case the job goes on. Flattening a flat image
	// succeeds.
	Flatten(ctx context.Context, image ID) error
	// Remove deletes an image or a snapshot, at once and without copying,
	// whatever depends on it. An id that does not exist is ErrNotFound; a
	// published or open one is ErrInUse.
	Remove(ctx context.Context, id ID) error
	// Open gives access to the bytes of an image (read and write) or a snapshot
	// (read-only). Several devices of one image may be open; they share one view.
	Open(ctx context.Context, id ID) (Device, error)
	// Close stops background work, flushes what is open and releases the store.
	Close() error
}

// Reverter is a store that can roll an image back.
type Reverter interface {
	// Revert makes the image show what the snapshot shows, in O(1). The image's
	// other snapshots stay. ErrInUse while it is published or open.
	Revert(ctx context.Context, image, snapshot ID) error
}

// Inspector answers questions about space, change and health.
type Inspector interface {
	// Usage accounts one object.
	Usage(ctx context.Context, id ID) (Usage, error)
	// Diff calls fn for the ranges of "to" that changed since "from", an older
	// snapshot of the same image, in ascending order; from "" means every range
	// that is not a hole. Extent.Zero tells discards from data.
	Diff(ctx context.Context, from, to ID, fn func(Extent) error) error
	// Children lists the images cloned from an image or snapshot.
	Children(ctx context.Context, id ID) ([]Info, error)
	// Check verifies every invariant; deep also reads all data.
	Check(ctx context.Context, deep bool) ([]Problem, error)
	// Status describes the store.
	Status(ctx context.Context) (Status, error)
}

// Publisher hands out and withdraws publications. They are durable.
type Publisher interface {
	// Publish gives node the right to id. Repeating it for the same node and access
	// returns the same publication; the same node with other access is ErrInUse, as
	// is another node unless both read (AccessRead, AccessScratch) or both share
	// (AccessShared). Writing to a snapshot is ErrReadOnly.
	Publish(ctx context.Context, id ID, node string, access Access) (Publication, error)
	// Unpublish withdraws the right of node, or of all nodes if node is "". Not
	// being published is no error. The private head of AccessScratch goes with it;
	// devices of it that are still open answer ErrFenced from then on.
	Unpublish(ctx context.Context, id ID, node string) error
	// Publications lists those of id, or all if id is "". For the private head of
	// AccessScratch it lists the publication it belongs to.
	Publications(ctx context.Context, id ID) ([]Publication, error)
}

// Modifier changes what an image is allowed, under live I/O.
type Modifier interface {
	// Modify applies all of c or nothing. Moving Format backwards is ErrConflict. A
	// policy is replaced whole: its zero fields mean the store's defaults.
	Modify(ctx context.Context, image ID, c Change) (Info, error)
}

// Notebook is a small durable table for the users of a store: keys of 1 to MaxName
// bytes, values of up to 4 KiB. It means nothing to the store itself.
type Notebook interface {
	// Note reads the value under key; ErrNotFound if there is none.
	Note(ctx context.Context, key string) (string, error)
	// SwapNote sets the value under key if it is old now, else ErrConflict. "" stands
	// for no note, both as old and as value.
	SwapNote(ctx context.Context, key, old, value string) error
	// Notes calls fn for every note whose key begins with prefix, in the order of
	// keys, as of one instant. An error of fn ends it and is returned.
	Notes(ctx context.Context, prefix string, fn func(key, value string) error) error
}

// JobRunner shows and steers background work.
type JobRunner interface {
	// Jobs lists jobs that are not done.
	Jobs(ctx context.Context) ([]Job, error)
	// StartFlatten queues a flatten and returns its job at once. For a flat image
	// the job returned is done.
	StartFlatten(ctx context.Context, image ID) (Job, error)
	// WatchJob calls fn with the job's progress, at most every 100 ms and at its
	// end, until it is done, failed, cancelled (ErrNotFound) or the context ends.
	WatchJob(ctx context.Context, job string, fn func(Job) error) error
	// PauseJob, ResumeJob and CancelJob act on a queued or running job. What a
	// cancelled job has copied stays valid.
	PauseJob(ctx context.Context, job string) error
	ResumeJob(ctx context.Context, job string) error
	CancelJob(ctx context.Context, job string) error
}

// Full is everything a complete backend offers; each part is its own interface so
// that consumers ask for what they use.
type Full interface {
	Store
	Reverter
	Inspector
	Publisher
	Modifier
	Notebook
	JobRunner
}
