package pool_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
)

func TestParse(t *testing.T) {
	const text = `# stores of the cluster
pools:
  - name: fast
    default: true
    backend: layered
    members: ["10.0.0.1:10808", "unix:/run/a/api.sock"]
    service: strata.strata.svc:10808
    local: /var/lib/strata
    cloneMode: flatten
    softCloneDepth: 4
    hardCloneDepth: 20
    blockSize: 512
    iops: 100
    bandwidth: 1048576
  - name: slow
    service: slow.strata.svc:10808
tls: {ca: /tls/ca.crt, cert: /tls/tls.crt, key: /tls/tls.key}
`
	got, err := pool.Parse("pools.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := pool.Config{
		Pools: []pool.Settings{{
			Name: "fast", Default: true, Backend: "layered", Members: []string{"10.0.0.1:10808", "unix:/run/a/api.sock"},
			Service: "strata.strata.svc:10808", Local: "/var/lib/strata", CloneMode: "flatten",
			Policy: store.Policy{Soft: 4, Hard: 20}, BlockSize: 512, Limits: store.Limits{IOPS: 100, Bandwidth: 1 << 20},
		}, {Name: "slow", Backend: "layered", Service: "slow.strata.svc:10808"}},
		TLS: &pool.TLS{CA: "/tls/ca.crt", Cert: "/tls/tls.crt", Key: "/tls/tls.key"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestSinglePoolIsDefault(t *testing.T) {
	cfg, err := pool.Parse("p", []byte("pools: [{name: a, members: ['unix:/a']}]"))
	if err != nil || !cfg.Pools[0].Default {
		t.Errorf("%+v, %v", cfg, err)
	}
}

// TestParseErrors: what is wrong is refused with the file and the line it is on.
func TestParseErrors(t *testing.T) {
	member := "\n    members: ['unix:/a']"
	for _, c := range []struct{ text, want string }{
		{"", "p.yaml:1: the file is empty"},
		{"pools:\n", "pools must be a list"},
		{"pools: []", "pools must be a list"},
		{"- a", "p.yaml:1: the file must have the form"},
		{"pools:\n  - name: a\n   bad", "p.yaml:"},
		{"pools: [{name: a, members: ['unix:/a']}]\n---\npools: []", "only one document"},
		{"pool: []", `p.yaml:1: unknown key "pool"; the file may have clusters, insecure, pools, tls`},
		{"pools:\n  - name: a" + member + "\n    soft: 3", `p.yaml:4: unknown key "soft"`},
		{"pools:\n  - name: a" + member + "\n    name: b", `p.yaml:4: key "name" appears twice`},
		{"pools:\n  - name: A" + member, "p.yaml:2: pool name"},
		{"pools:\n  - name: " + strings.Repeat("a", 41) + member, "p.yaml:2: pool name"},
		{"pools:\n  -" + member[4:], "p.yaml:2: a pool needs a name"},
		{"pools:\n  - name: a", "p.yaml:2: pool a needs members, a service or a local"},
		{"pools:\n  - name: a" + member + "\n  - name: a" + member, "p.yaml:4: pool a appears twice"},
		{"pools:\n  - name: a\n    default: true" + member + "\n  - name: b\n    default: true" + member, "p.yaml:5: pools a and b are both the default"},
		{"pools:\n  - name: a\n    default: maybe" + member, "p.yaml:3: want true or false"},
		{"pools:\n  - name: a\n    backend: ceph" + member, "p.yaml:2: pool a has backend ceph, so it needs cluster"},
		{"pools:\n  - name: a\n    backend: zfs" + member, `p.yaml:3: unknown backend "zfs"`},
		{"pools:\n  - name: a\n    members: x", "p.yaml:3: members must be a list"},
		{"pools:\n  - name: a\n    members:\n      - unix:/a\n      - nowhere", `p.yaml:5: "nowhere" is neither`},
		{"pools:\n  - name: a\n    members:\n      - unix:a", "p.yaml:4: \"unix:a\": the path"},
		{"pools:\n  - name: a\n    members:\n      - unix:/a\n      - unix:/a", "p.yaml:5: member unix:/a appears twice"},
		{"pools:\n  - name: a\n    service: unix:/a", "p.yaml:3: \"unix:/a\" is no host:port"},
		{"pools:\n  - name: a\n    local: here", "p.yaml:3: \"here\" must begin"},
		{"pools:\n  - name: a\n    cloneMode: fast" + member, "p.yaml:3: clone mode"},
		{"pools:\n  - name: a\n    softCloneDepth: few" + member, "p.yaml:3: want a whole number"},
		{"pools:\n  - name: a\n    softCloneDepth: 9\n    hardCloneDepth: 3" + member, "p.yaml:4: clone depth limits"},
		{"pools:\n  - name: a\n    blockSize: 1024" + member, "p.yaml:3: block size"},
		{"pools:\n  - name: a\n    iops: -1" + member, "p.yaml:3: want a whole number"},
		{"pools:\n  - name: a\n    bandwidth: fast" + member, "p.yaml:3: want a whole number"},
		{"pools:\n  - name: 7" + member, "p.yaml:2: want a text"},
		{"tls: {ca: x, cert: y}\npools:\n  - name: a" + member, "p.yaml:1: tls needs ca, cert and key"},
		{"pools:\n  - name: a\n    members:\n      - 127.0.0.1:1\n      - 10.0.0.1:1", "p.yaml:5: 10.0.0.1:1 is reached over the network"},
		{"pools:\n  - name: a\n    service: s:1", "p.yaml:3: s:1 is reached over the network"},
	} {
		_, err := pool.Parse("p.yaml", []byte(c.text))
		if !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "p.yaml:") {
			t.Errorf("%q:\n got %v\nwant %s", c.text, err, c.want)
		} else if strings.Count(err.Error(), store.ErrInvalid.Error()) != 1 {
			t.Errorf("%q: %v repeats itself", c.text, err)
		}
	}
}

// TestParseNetwork: other hosts are allowed with certificates or an explicit switch,
// this one without.
func TestParseNetwork(t *testing.T) {
	for _, text := range []string{
		"insecure: true\npools: [{name: a, members: ['10.0.0.1:1']}]",
		"pools: [{name: a, service: 's:1'}]\ntls: {ca: a, cert: b, key: c}",
		"pools: [{name: a, members: ['localhost:1', '127.0.0.2:1', '[::1]:1', 'unix:/x']}]",
		"pools: [{name: a, local: /x}]",
	} {
		if _, err := pool.Parse("p", []byte(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pools.yaml")
	if _, err := pool.Load(path); err == nil {
		t.Error("a file that does not exist was read")
	}
	if err := os.WriteFile(path, []byte("pools: [{name: a, local: /x}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	if cfg, err := pool.Load(path); err != nil || cfg.Pools[0].Name != "a" {
		t.Errorf("%+v, %v", cfg, err)
	}
}
