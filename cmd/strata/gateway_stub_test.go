//go:build !ceph

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGatewayOfABuildWithoutCeph: it says how to get one that has it.
func TestGatewayOfABuildWithoutCeph(t *testing.T) {
	b := newBench(t)
	pools := filepath.Join(b.dir, "pools.yaml")
	const text = "clusters: [{name: c, conf: /c, user: u}]\npools: [{name: p, backend: ceph, cluster: c, cephPool: rbd, local: /l}]\n"
	if err := os.WriteFile(pools, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := b.run("store", "--allow-unsafe", "--data", filepath.Join(b.dir, "data"), "--backend", "rbd", "--pools", pools, "--pool", "p")
	if r.code == 0 || !strings.Contains(r.err, "built without Ceph") || !strings.Contains(r.err, "make build-ceph") {
		t.Errorf("it says %+v", r)
	}
}
