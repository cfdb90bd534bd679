//go:build !ceph

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/doctor"
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

// TestDoctorOfABuildWithoutCeph: it cannot tell, which is no verdict about the pool.
func TestDoctorOfABuildWithoutCeph(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pools.yaml")
	const text = "clusters: [{name: c, conf: /c, user: u}]\npools: [{name: p, backend: ceph, cluster: c, cephPool: rbd, local: /l}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := examinePools(t.Context(), file)
	if err != nil || len(found) != 1 || found[0].Level != doctor.Unknown || found[0].Name != "pool p" || !strings.Contains(found[0].Do, "make build-ceph") {
		t.Errorf("%+v, %v", found, err)
	}
}
