package stage

import (
	"errors"
	"slices"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// ErrState classifies what a node refuses because of what is there, and what asking
// again does not change: a volume that is not staged, an image that holds something
// else than was asked for. Beside it, errors are classified by the sentinels of
// pkg/store.
var ErrState = errors.New("not possible as things are")

// Ticket is what the controller passes on of a publication.
type Ticket struct {
	Pool string `json:"pool"`
	// Store is the UUID of the store that published.
	Store string `json:"store"`
	// Image is what is attached: the publication's target.
	Image store.ID `json:"image"`
	Epoch uint64   `json:"epoch"`
	// Token is secret.
	Token  string       `json:"token"`
	Access store.Access `json:"access"`
}

// Capability is how a volume is going to be used.
type Capability struct {
	// Block asks for the raw device, else for a file system.
	Block bool `json:"block,omitempty"`
	// FS is "ext4", "ext3" or "xfs"; "" means what is there, or ext4.
	FS string `json:"fs,omitempty"`
	// Flags are mount options; they may be sensitive.
	Flags []string `json:"flags,omitempty"`
	// ReadOnly: nobody writes, on any node.
	ReadOnly bool `json:"readOnly,omitempty"`
	// Exclusive: at most one target on this node.
	Exclusive bool `json:"exclusive,omitempty"`
}

func (c Capability) equal(o Capability) bool {
	return c.Block == o.Block && c.FS == o.FS && slices.Equal(c.Flags, o.Flags) &&
		c.ReadOnly == o.ReadOnly && c.Exclusive == o.Exclusive
}

// Request asks for a volume to be staged.
type Request struct {
	// Volume is the volume's id, opaque here.
	Volume string
	Ticket Ticket
	// Path is the staging directory.
	Path       string
	Capability Capability
	// Sourced: the volume was made with a content source, so it is never formatted.
	Sourced bool
}

// Target is a place at which a volume is published.
type Target struct {
	Path     string   `json:"path"`
	ReadOnly bool     `json:"readOnly,omitempty"`
	Flags    []string `json:"flags,omitempty"`
}

func (t Target) equal(o Target) bool {
	return t.Path == o.Path && t.ReadOnly == o.ReadOnly && slices.Equal(t.Flags, o.Flags)
}

// Phase is how far a volume has come.
type Phase string

const (
	// PhaseAttaching: there may be a device, a file system being made, a mount.
	PhaseAttaching Phase = "attaching"
	// PhaseReady: staged, or mapped; it can be published.
	PhaseReady Phase = "ready"
	// PhaseDetaching: it is being taken back and will not come up again.
	PhaseDetaching Phase = "detaching"
)

// Health is what is known of a volume's link.
type Health struct {
	// Fenced says why the volume will never work again in this publication; "" if not.
	Fenced string
	// Lost is since when the link has been down; zero if it is up.
	Lost time.Time
	// Problem is the last error of an attempt to reconnect.
	Problem string
}

// Volume is what List tells of a volume on this node. It holds no secrets.
type Volume struct {
	Volume     string
	Pool       string
	Store      string
	Image      store.ID
	Epoch      uint64
	Access     store.Access
	Phase      Phase
	Device     string
	Size       int64
	Path       string
	Capability Capability
	Targets    []Target
	Mapped     bool
	// Ref is the name under which it was mapped.
	Ref    string
	Health Health
}

// EventKind says what an Event is about.
type EventKind string

const (
	// LinkLost: the device has no connection to its store.
	LinkLost EventKind = "link lost"
	// LinkRetry: an attempt to reconnect failed; told once per outage and reason.
	LinkRetry EventKind = "link retry"
	// LinkBack: the device is connected again.
	LinkBack EventKind = "link back"
	// LinkRenewed: a connection in good health was replaced because of its key's age.
	LinkRenewed EventKind = "link renewed"
	// Fenced: the publication is gone, the device was ended.
	Fenced EventKind = "fenced"
	// Orphan: a device without a record was found; Err says why it was left, if it was.
	Orphan EventKind = "orphan"
	// Dropped: a record without anything on the host was removed.
	Dropped EventKind = "record dropped"
	// Damaged: a file of records cannot be read and was put aside.
	Damaged EventKind = "record damaged"
	// Ungrouped: programs run in the control group of this process. One that hangs may
	// keep its container from being started anew.
	Ungrouped EventKind = "programs not in a group of their own"
	// Unregistered: the node's note could not be written at some store.
	Unregistered EventKind = "not registered"
)

// Event tells of something that nobody has asked for.
type Event struct {
	Kind   EventKind
	Volume string
	Device string
	// Epoch is that of the publication, Paths are where the volume is published.
	Epoch uint64
	Paths []string
	// After is how long the link was down, for LinkBack.
	After time.Duration
	Err   error
}
