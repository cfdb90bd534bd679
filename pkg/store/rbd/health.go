package rbd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// Fault is the part of a setup that fails.
type Fault string

// Faults, in the order in which Probe looks for them.
const (
	// FaultConfig: a file is missing or says nothing useful.
	FaultConfig Fault = "configuration"
	// FaultCluster: no monitor answers.
	FaultCluster Fault = "cluster"
	// FaultCredentials: the cluster refuses the user or the key.
	FaultCredentials Fault = "credentials"
	// FaultPool, FaultNamespace and FaultDataPool: it is not there.
	FaultPool      Fault = "pool"
	FaultNamespace Fault = "namespace"
	FaultDataPool  Fault = "data pool"
	// FaultRights: the user may not do there what strata does.
	FaultRights Fault = "rights"
	// FaultOSD: the monitors answer, the OSDs do not.
	FaultOSD Fault = "OSDs"
	// FaultCache: the pool's settings turn librbd's cache on.
	FaultCache Fault = "cache"
)

// ProbeError is what Probe found. It is one of store's sentinels too: ErrUnavailable
// if waiting may help, ErrNotFound or ErrInvalid if it does not.
type ProbeError struct {
	Fault Fault
	// Text says what is wrong and what to do, with what the cluster said.
	Text string
	is   error
}

// Error implements error.
func (e *ProbeError) Error() string { return string(e.Fault) + ": " + e.Text }

// Unwrap is the sentinel.
func (e *ProbeError) Unwrap() error { return e.is }

// found makes a ProbeError.
func found(f Fault, format string, args ...any) error {
	is := store.ErrInvalid
	switch f {
	case FaultCluster, FaultOSD:
		is = store.ErrUnavailable
	case FaultPool, FaultNamespace, FaultDataPool:
		is = store.ErrNotFound
	}
	return &ProbeError{Fault: f, Text: fmt.Sprintf(format, args...), is: is}
}

// Health is what Probe saw of a pool that works.
type Health struct {
	// FSID is the cluster's identity.
	FSID string `json:"fsid"`
	// Pools are the ids of the pool and, if there is one, the data pool.
	PoolID     int64 `json:"poolID"`
	DataPoolID int64 `json:"dataPoolID,omitempty"`
	// Connect is how long connecting took, Request a request to an OSD.
	Connect time.Duration `json:"connect"`
	Request time.Duration `json:"request"`
}

// files checks what can be seen without asking the cluster.
func (o Options) files() error {
	keyring := o.Config["keyring"]
	for _, f := range []struct{ what, path string }{{"ceph.conf", o.ConfigFile}, {"keyring", keyring}, {"key file", o.Config["keyfile"]}} {
		if f.path == "" {
			continue
		}
		text, err := os.ReadFile(f.path)
		switch {
		case err != nil:
			return found(FaultConfig, "the %s cannot be read: %v", f.what, err)
		case len(strings.TrimSpace(string(text))) == 0:
			return found(FaultConfig, "the %s %s is empty", f.what, f.path)
		case f.path == keyring && !hasUser(string(text), o.User):
			return found(FaultConfig, "the keyring %s has no key of client.%s", f.path, o.User)
		}
	}
	return nil
}

// hasUser tells whether a keyring has a section for a user with a key in it.
func hasUser(keyring, user string) bool {
	inside := false
	for lines := bufio.NewScanner(strings.NewReader(keyring)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "[") {
			inside = line == "[client."+user+"]"
			continue
		}
		name, value, _ := strings.Cut(line, "=")
		if inside && strings.TrimSpace(name) == "key" && strings.TrimSpace(value) != "" {
			return true
		}
	}
	return false
}

// monitor is an address in a setting such as "[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0]".
var monitor = regexp.MustCompile(`(?:v[12]:)?(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z_.-]+)(?::([0-9]+))?(?:/[0-9]+)?`)

// monitorAddresses are the addresses in a mon_host setting; those without a port have
// both of the ports that monitors listen on.
func monitorAddresses(setting string) (all []string) {
	for _, m := range monitor.FindAllStringSubmatch(setting, -1) {
		host := strings.Trim(m[1], "[]")
		ports := []string{m[2]}
		if m[2] == "" {
			ports = []string{"3300", "6789"}
		}
		for _, port := range ports {
			all = append(all, net.JoinHostPort(host, port))
		}
	}
	return all
}

// explainSilence says how far one comes with each monitor, for who was not answered.
func explainSilence(ctx context.Context, setting string) string {
	addrs := monitorAddresses(setting)
	if len(addrs) == 0 {
		return "no monitor is named; set monitors, or mon host in ceph.conf"
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	said := make([]string, len(addrs))
	var wg sync.WaitGroup
	for i, addr := range addrs {
		wg.Go(func() {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
			var op *net.OpError
			switch {
			case err == nil:
				_ = conn.Close()
				said[i] = addr + " takes connections and does not answer"
			case errors.As(err, &op) && op.Op == "dial" && !op.Timeout():
				said[i] = addr + ": " + op.Err.Error()
			default:
				said[i] = addr + ": " + err.Error()
			}
		})
	}
	wg.Wait()
	return strings.Join(said, "; ")
}
