//go:build kernelnbd

package scenario

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/pki"
)

const (
	apiPort = "10808"
	nbdPort = "10809"
)

// remote is a store on a host of its own, reached over TLS by name.
type remote struct {
	*cluster
	*host
	store *storeHost
	pki   string // "" with everything in the clear
}

// newRemote makes a cluster whose store is on another host, with one node.
func newRemote(t *testing.T, nodeArgs ...string) *remote {
	t.Helper()
	r := emptyRemote(t)
	c := r.cluster
	r.pki = filepath.Join(c.dir, "pki")
	if err := pki.Init(r.pki, pki.Terms{Years: 1, CAYears: 1, Hosts: []string{hostName}}); err != nil {
		t.Fatal(err)
	}
	r.addRemoteStore(r.tls(pki.RoleStore)...)
	c.writePools(r.poolsText() + r.tlsSection(pki.RoleController))
	c.addController("")
	// A node has a certificate of its own, hence a file of its own.
	c.pools = filepath.Join(c.dir, "pools-node.yaml")
	c.writePools(r.poolsText() + r.tlsSection(pki.RoleNode))
	c.addNode("n1", nodeArgs...)
	return r
}

// newPlainRemote is newRemote without TLS.
func newPlainRemote(t *testing.T) *remote {
	t.Helper()
	r := emptyRemote(t)
	r.addRemoteStore("--insecure")
	r.writePools(r.poolsText() + "insecure: true\n")
	r.addController("")
	r.addNode("n1")
	return r
}

func emptyRemote(t *testing.T) *remote {
	t.Helper()
	return &remote{cluster: newCluster(t), host: newHost(t, "far", "10.77.0")}
}

func (r *remote) addRemoteStore(args ...string) {
	r.cluster.t.Helper()
	r.store = r.addStore("store", r.host.name, append([]string{
		"--listen", "tcp://0.0.0.0:" + nbdPort, "--api-listen", "tcp://0.0.0.0:" + apiPort}, args...)...)
}

func (r *remote) poolsText() string {
	return "pools:\n  - name: default\n    backend: layered\n    members: [\"" + hostName + ":" + apiPort + "\"]\n"
}

func (r *remote) tls(role pki.Role) []string {
	f := pki.RoleFiles(r.pki, role)
	return []string{"--tls-ca", f.CA, "--tls-cert", f.Cert, "--tls-key", f.Key}
}

func (r *remote) tlsSection(role pki.Role) string {
	f := pki.RoleFiles(r.pki, role)
	return fmt.Sprintf("tls: {ca: %q, cert: %q, key: %q}\n", f.CA, f.Cert, f.Key)
}

// reachable waits until the store takes connections from here.
func (r *remote) reachable() {
	r.cluster.t.Helper()
	eventually(r.cluster.t, time.Minute, "the store answers at "+r.host.addr, func(ctx context.Context) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(r.host.addr, nbdPort))
		if err != nil {
			return errors.Join(err, r.store.alive())
		}
		return conn.Close()
	})
}

// The store's host loses power: nobody says goodbye, and after a minute it is back,
// somewhere else. I/O waits for that minute, and ends with no error.
func TestStoreHostIsCutOffAndMoves(t *testing.T) {
	const away = time.Minute
	rnd, r := random(t), newRemote(t)
	v := r.create("victim", 512*mib, fsVolume("ext4"), nil, nil)
	at := r.up(v, "n1")
	fio := startFio(t, at, 32*mib)
	steady := startSteady(t, filepath.Join(at, "steady"), 8*mib, rnd)
	steady.advance(t, 20, time.Minute)
	steady.largestGap()

	r.cut()
	r.store.kill()
	pause(t, away)
	r.move(r.host.prefix + ".3")
	r.join()
	r.store.start()
	r.reachable()
	back := time.Now()
	steady.advance(t, 2, resumeBound)
	t.Logf("I/O goes on %v after the store answers at its new address; largest gap %v with %v away",
		time.Since(back).Round(time.Millisecond), steady.largestGap().Round(time.Millisecond), away)
	steady.verify(t)
	fio.verify(t)
	r.log.clean(t)
	r.down(v, "n1")
	r.fsck(r.store, "victim", "ext4")
	r.remove(v)
	r.ended()
}
