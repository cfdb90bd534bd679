package pool

import (
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
)

// Config is the content of a pools file.
type Config struct {
	// Pools, in the order of the file; at least one.
	Pools []Settings
	// Clusters of Ceph that pools name.
	Clusters []Cluster
	// TLS is nil when the file gives none.
	TLS *TLS
	// Insecure allows plain TCP to other hosts.
	Insecure bool
}

// TLS names the files of a client certificate and of the CA that signed the stores'.
type TLS struct {
	CA   string
	Cert string
	Key  string
}

// Clone modes of a pool or a volume.
const (
	// CloneCOW links a clone to its source.
	CloneCOW = "cow"
	// CloneFlatten links it and queues a flatten.
	CloneFlatten = "flatten"
	// CloneCopy offers it only when it stands alone.
	CloneCopy = "copy"
)

// Backends.
const (
	// BackendLayered is the embedded backend.
	BackendLayered = "layered"
	// BackendCeph is Ceph RBD. The stores of such a pool are gateways: all of them show
	// the same images, and one that answers stands for all.
	BackendCeph = "ceph"
)

// Settings describe one pool.
type Settings struct {
	// Name is a DNS label of at most 40 bytes; volume ids contain it.
	Name string
	// Default marks the pool of volumes that name none. At most one has it; a single
	// pool is the default without it.
	Default bool
	// Backend is BackendLayered or BackendCeph.
	Backend string
	// Ceph says where a pool of BackendCeph is; nil for others.
	Ceph *Ceph
	// Members are addresses: host:port or unix:PATH.
	Members []string
	// Service is the host:port of a headless service, looked up for each discovery.
	Service string
	// Local is the data directory of a store on this host, "" if there is none.
	Local string
	// CloneMode, Policy, BlockSize and Limits are the defaults of new volumes; zero
	// fields leave the choice to the store.
	CloneMode string
	Policy    store.Policy
	BlockSize int
	Limits    store.Limits
}

// MaxName is the longest name of a pool, in bytes.
const MaxName = 40

// ValidateName accepts DNS labels of at most MaxName bytes.
func ValidateName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("pool name %q is not 1 to %d bytes long: %w", name, MaxName, store.ErrInvalid)
	}
	for i, c := range name {
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (c != '-' || i == 0 || i == len(name)-1) {
			return fmt.Errorf("pool name %q is no DNS label (lower-case letters, digits, and '-' inside): %w", name, store.ErrInvalid)
		}
	}
	return nil
}

// ValidateCloneMode accepts the clone modes, and "" for the default.
func ValidateCloneMode(mode string) error {
	switch mode {
	case "", CloneCOW, CloneFlatten, CloneCopy:
		return nil
	}
	return fmt.Errorf("clone mode %q is none of %s, %s and %s: %w", mode, CloneCOW, CloneFlatten, CloneCopy, store.ErrInvalid)
}

// Load reads a pools file. Every error names the file and, where there is one, the line.
func Load(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("pools file: %w", err)
	}
	return Parse(path, data)
}

// validateAddress accepts unix:PATH and host:port.
func validateAddress(s string) error {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if !strings.HasPrefix(path, "/") {
			return fmt.Errorf("%q: the path after unix: must begin with '/'", s)
		}
		return nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" || port == "" {
		return fmt.Errorf("%q is neither host:port nor unix:PATH", s)
	}
	return nil
}

// plain tells whether s can be reached without leaving the host.
func plain(s string) bool {
	if strings.HasPrefix(s, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
