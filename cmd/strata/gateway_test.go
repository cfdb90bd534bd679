package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGatewayIsRefused: what a gateway lacks is told before anything is served.
func TestGatewayIsRefused(t *testing.T) {
	b := newBench(t)
	pools := filepath.Join(b.dir, "pools.yaml")
	const text = "clusters: [{name: c, conf: /nowhere/ceph.conf, user: strata}]\npools:\n" +
		"  - {name: fast, backend: ceph, cluster: c, cephPool: rbd, local: /run/fast}\n" +
		"  - {name: here, local: /var/lib/strata}\n"
	if err := os.WriteFile(pools, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(b.dir, "data")
	for _, c := range []struct{ flags, want string }{
		{"--backend ceph", "--backend is layered or rbd"},
		{"--backend rbd", "--backend rbd wants --pools and --pool"},
		{"--backend rbd --pools " + pools, "--backend rbd wants --pools and --pool"},
		{"--pool fast", "--pool is not for --backend layered"},
		{"--backend rbd --pools " + pools + " --pool fast --io direct", "--io is not for --backend rbd"},
		{"--backend rbd --pools " + pools + " --pool fast --copy-rate 1M", "--copy-rate is not for --backend rbd"},
		{"--backend rbd --pools " + pools + " --pool slow", `has no pool "slow"`},
		{"--backend rbd --pools " + pools + " --pool here", "pool here has backend layered, and a gateway serves one of backend ceph"},
	} {
		r := b.run(append([]string{"store", "--allow-unsafe", "--data", data}, strings.Fields(c.flags)...)...)
		if r.code == 0 || !strings.Contains(r.err, c.want) {
			t.Errorf("%s: %+v, want %q", c.flags, r, c.want)
		}
	}
}
