package rbd

import (
	"errors"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// Limits of clone depth where neither image nor Options say any, in clone links. The
// hard one leaves images mappable by the kernel's own RBD client, which follows 16.
const (
	DefaultSoft = 4
	DefaultHard = 14
)

// Options of Open. Pool is required.
type Options struct {
	// ConfigFile is the cluster's ceph.conf; "" for the library's default places.
	ConfigFile string
	// User is the client's name without "client."; "" for admin.
	User string
	// Config are further settings of the client, as in ceph.conf.
	Config map[string]string
	// Pool holds the images and the catalogue; it must be replicated. Namespace is one
	// of its RADOS namespaces, DataPool where the data of new images goes; both may be "".
	Pool, Namespace, DataPool string
	// Installation tells those apart that share a pool: 1 to 40 letters, digits and '-'.
	// "" means "default".
	Installation string
	// Member names this gateway among those of the installation, for ever: a name of a
	// node. "" means "gateway". A gateway that opens ends the one with its name.
	Member string
	// Init makes the installation where there is none; without it that is an error.
	Init bool
	// Policy fills what images leave open; zero fields mean DefaultSoft and DefaultHard.
	Policy store.Policy
	// ObjectSize is that of new images, in bytes, a power of two from 4 KiB to 32 MiB; 0
	// means 4 MiB. Large images get larger objects.
	ObjectSize int64
	// InFlight bounds the I/O that runs in the library at once; 0 means 64.
	InFlight int
	// Lease is how long a member that gives no sign of life is waited for before another
	// fences it and takes over what it has begun; 0 means a minute.
	Lease time.Duration
	// Workers is how many background jobs run at once; 0 means 2.
	Workers int
}

// ErrNotBuilt: this program was built without the Ceph backend.
var ErrNotBuilt = errors.New("built without Ceph: build with CGO_ENABLED=1 and -tags ceph,pacific,ceph_preview, with librbd-dev and librados-dev installed")
