package app

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/strata-csi/strata/pkg/pki"
	"github.com/strata-csi/strata/pkg/store"
)

const (
	// apiSocket and nbdSocket are the names of the sockets in a data directory.
	apiSocket = "api.sock"
	nbdSocket = "nbd.sock"
	// defaultStop is how long a stop may take.
	defaultStop = 30 * time.Second
)

// Config of a store process.
type Config struct {
	// Data is the data directory.
	Data string
	// Node is the node that the process runs on, as the CO knows it: volumes that are
	// wanted there are made here. "" says nothing.
	Node string
	// Init makes the data directory a store first. It is an error if it is one.
	Init bool
	// InitOnce, if set, is a file that records which stores have been served from the
	// data directory. A directory without a store is made one if there is no record; with
	// one, its store is missing: ErrNotFound. It must not be on the disk of the data.
	InitOnce string
	// ReturnTimeout is how long the process is not ready after its start unless the
	// nodes that had volumes of it are connected again; 0 waits for nobody.
	ReturnTimeout time.Duration
	// NBD are further addresses to serve NBD on, beside nbd.sock in the data
	// directory: "tcp://host:port", "host:port", "unix:path" or a path.
	NBD []string
	// API are further addresses for the store API, beside api.sock in the data
	// directory, in the same forms.
	API []string
	// TLS, if set, is asked for on every TCP address, of the API and of NBD; what a
	// client may do there follows from the role in its certificate. Unix sockets are
	// guarded by their mode. Without it TCP must be loopback.
	TLS pki.Files
	// Insecure serves on TCP to other machines in the clear, to whoever can connect.
	// It and TLS exclude each other.
	Insecure bool
	// OpenTCP lets NBD clients on TCP open images and snapshots by name, without a
	// publication, and list them; with TLS, controllers and operators may anyhow.
	OpenTCP bool
	// AllowUnsafe starts although the threads could not be marked as I/O flushers.
	AllowUnsafe bool
	// Policy is the clone depth policy of images that set none; zero fields mean
	// the backend's defaults.
	Policy store.Policy
	// CopyRate bounds what background work copies, in bytes a second; 0 is no bound.
	CopyRate int64
	// StableAck answers writes only when they are on the disk, so that sessions survive
	// a power failure; DirectIO keeps images out of the page cache. Both are of the
	// embedded engine.
	StableAck, DirectIO bool
	// AllocUnit is how much space the embedded engine takes at once where an image is
	// first written, in bytes; 0 is 4 KiB.
	AllocUnit int64
	// ScrubEvery is how often the embedded engine reads all it holds; 0 is when asked.
	// ScrubRate bounds what that reads, in bytes a second; 0 is no bound.
	ScrubEvery time.Duration
	ScrubRate  int64
	// Gateway, if it names a pool, serves a pool of a Ceph cluster instead of the
	// embedded engine. The data directory then holds the sockets and the lock only.
	Gateway Gateway
	// Reexec lets the process execute its program anew at the start where that is the
	// only way to mark its threads as I/O flushers: in binaries built with cgo.
	Reexec bool
	// Web is where the process tells of itself.
	Web Web
	// Version is told in the metrics.
	Version string
	// Stop bounds how long a stop may take; 0 means 30 s.
	Stop time.Duration
	// Backend, if set, opens the store instead of the embedded engine. Init then
	// only makes the directory.
	Backend func(dir string) (store.Full, error)
	// Ready, if set, is called once everything is served.
	Ready func(Serving)
}

// Serving says what a store process serves.
type Serving struct {
	// UUID of the store.
	UUID string
	// API are the addresses of the store API, NBD the URIs without a name.
	API, NBD []string
}

// listen is an address to listen on.
type listen struct{ network, address string }

func (l listen) String() string { return l.network + ":" + l.address }

// parseListen understands "tcp://host:port", "host:port", "unix://path",
// "unix:path" and a path, which has a '/'.
func parseListen(s string) (listen, error) {
	bad := func(why string) (listen, error) {
		return listen{}, fmt.Errorf("listen address %q %s; write tcp://host:port or unix:path: %w", s, why, store.ErrInvalid)
	}
	scheme, rest, ok := strings.Cut(s, ":")
	switch {
	case ok && scheme == "unix":
		rest = strings.TrimPrefix(rest, "//")
		if rest == "" {
			return bad("has no path")
		}
		return unixAt(rest)
	case ok && scheme == "tcp" && strings.HasPrefix(rest, "//"):
		s = rest[2:]
	case strings.Contains(s, "/"):
		return unixAt(s)
	}
	if _, _, err := net.SplitHostPort(s); err != nil {
		return bad("is not understood")
	}
	return listen{"tcp", s}, nil
}

func unixAt(path string) (listen, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return listen{}, fmt.Errorf("listen address %q: %w", path, err)
	}
	return listen{"unix", abs}, nil
}

// loopback tells whether l can be reached from this machine only.
func (l listen) loopback() bool {
	if l.network == "unix" {
		return true
	}
	host, _, err := net.SplitHostPort(l.address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// listens returns the addresses for NBD and for the API, those in the data directory
// first.
func (c Config) listens() (forNBD, forAPI []listen, err error) {
	forNBD = []listen{{"unix", filepath.Join(c.Data, nbdSocket)}}
	forAPI = []listen{{"unix", filepath.Join(c.Data, apiSocket)}}
	for _, s := range c.NBD {
		if forNBD, err = c.addListen(forNBD, "NBD", s); err != nil {
			return nil, nil, err
		}
	}
	for _, s := range c.API {
		if forAPI, err = c.addListen(forAPI, "API", s); err != nil {
			return nil, nil, err
		}
	}
	return forNBD, forAPI, nil
}

// addListen adds an address, unless others could reach it in the clear without that
// being meant.
func (c Config) addListen(to []listen, what, s string) ([]listen, error) {
	l, err := parseListen(s)
	if err != nil {
		return nil, err
	}
	if !l.loopback() && !c.TLS.Set() && !c.Insecure {
		return nil, fmt.Errorf("%s address %q can be reached from other machines, and no certificates are given; give some with --tls-ca, --tls-cert and --tls-key (strata certs makes them), use 127.0.0.1 or a unix socket, or accept it with --insecure: %w", what, s, store.ErrInvalid)
	}
	return append(to, l), nil
}

// normal checks the configuration and fills in what was left out.
func (c Config) normal() (Config, error) {
	if c.Data == "" {
		return c, fmt.Errorf("the data directory is not named: %w", store.ErrInvalid)
	}
	abs, err := filepath.Abs(c.Data)
	if err != nil {
		return c, fmt.Errorf("data directory %q: %w", c.Data, err)
	}
	c.Data = abs
	if c.Stop <= 0 {
		c.Stop = defaultStop
	}
	if c.Init && c.InitOnce != "" {
		return c, fmt.Errorf("a new store is asked for at once, and if there never was one; choose: %w", store.ErrInvalid)
	}
	if c.CopyRate < 0 {
		return c, fmt.Errorf("copy rate %d is negative: %w", c.CopyRate, store.ErrInvalid)
	}
	if err := store.ValidatePolicy(c.Policy); err != nil {
		return c, err
	}
	if c.TLS.Set() && c.Insecure {
		return c, fmt.Errorf("TLS and no TLS are both asked for; leave the certificates out, or --insecure: %w", store.ErrInvalid)
	}
	if c.Gateway.Pool != "" {
		if c.Gateway, err = c.Gateway.load(c.Data); err != nil {
			return c, err
		}
	}
	_, _, err = c.listens()
	return c, err
}
