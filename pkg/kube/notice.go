package kube

import (
	"strings"
	"time"
)

// Reason says in a word what a notice is about.
type Reason string

const (
	// CloneDeep: a clone is deeper than its soft limit; a flatten is queued for it.
	CloneDeep Reason = "CloneDeep"
	// CloneDepthLowered: it is within its limit again.
	CloneDepthLowered Reason = "CloneDepthLowered"
	// FlattenQueued: the volume's data will be made its own.
	FlattenQueued Reason = "FlattenQueued"
	// FlattenStarted: that has begun.
	FlattenStarted Reason = "FlattenStarted"
	// FlattenProgress: how far it is.
	FlattenProgress Reason = "FlattenProgress"
	// FlattenWaiting: it cannot go on now, mostly for want of space.
	FlattenWaiting Reason = "FlattenWaiting"
	// FlattenPaused: an operator has paused it.
	FlattenPaused Reason = "FlattenPaused"
	// FlattenDone: the volume depends on no other any more.
	FlattenDone Reason = "FlattenDone"
	// FlattenFailed: an error that trying again does not mend.
	FlattenFailed Reason = "FlattenFailed"
	// FlattenCancelled: an operator has cancelled it.
	FlattenCancelled Reason = "FlattenCancelled"
	// VolumeFaulty: the store refuses the volume, or has found damage.
	VolumeFaulty Reason = "VolumeFaulty"
	// VolumeFenced: the node has lost its right to the volume; its I/O ends in errors.
	VolumeFenced Reason = "VolumeFenced"
)

// warns tells whether the reason is one for concern.
func (r Reason) warns() bool {
	switch r {
	case FlattenWaiting, FlattenFailed, VolumeFaulty, VolumeFenced:
		return true
	}
	return false
}

// Subject is a volume or a snapshot, as far as it is known.
type Subject struct {
	// Snapshot: it is one, not a volume.
	Snapshot bool
	// Name is what the store calls it: a volume's is that of its PersistentVolume, if the
	// provisioner made it.
	Name string
	// UUID is the store's id of it. The handles of a volume and of a snapshot hold it.
	UUID string
	// Handle is the CO's own name for it; if set, it counts, and not UUID.
	Handle string
	// Paths are where the CO has it published on this node; they name the
	// PersistentVolume.
	Paths []string
	// Node is told if the claim is not found; then no list is asked for.
	Node string
}

// is tells whether an object with that handle is the subject.
func (s Subject) is(handle string) bool {
	if s.Handle != "" {
		return handle == s.Handle
	}
	return s.UUID != "" && strings.Contains(handle, s.UUID)
}

// Notice is something to tell.
type Notice struct {
	About  Subject
	Reason Reason
	// Text is one sentence for the volume's user.
	Text string
	// Key tells this notice from others of the same reason and subject.
	Key string
	// At is when it happened; zero means now.
	At time.Time
}
