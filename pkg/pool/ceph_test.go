package pool_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/pool/pooltest"
	"github.com/strata-csi/strata/pkg/store"
)

func TestParseCeph(t *testing.T) {
	const text = `clusters:
  - name: main
    conf: /etc/ceph/ceph.conf
    user: strata
    keyring: /etc/strata/keyring
  - name: far
    monitors: ["10.0.0.1:3300", "mon2", "[fd00::1]:3300"]
    user: k8s.one
    keyFile: /secret/userKey
pools:
  - name: fast
    default: true
    backend: ceph
    cluster: main
    cephPool: rbd
    namespace: tenant-1
    dataPool: ec.data
    installation: prod-2
    local: /var/lib/strata-gateway
  - name: cold
    backend: ceph
    cluster: far
    cephPool: rbd
    local: /var/lib/strata-far
`
	got, err := pool.Parse("pools.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	near := pool.Cluster{Name: "main", Conf: "/etc/ceph/ceph.conf", User: "strata", Keyring: "/etc/strata/keyring"}
	far := pool.Cluster{
		Name: "far", Monitors: []string{"10.0.0.1:3300", "mon2", "[fd00::1]:3300"}, User: "k8s.one", KeyFile: "/secret/userKey",
	}
	want := pool.Config{
		Clusters: []pool.Cluster{near, far},
		Pools: []pool.Settings{{
			Name: "fast", Default: true, Backend: pool.BackendCeph, Local: "/var/lib/strata-gateway",
			Ceph: &pool.Ceph{Cluster: near, Pool: "rbd", Namespace: "tenant-1", DataPool: "ec.data", Installation: "prod-2"},
		}, {
			Name: "cold", Backend: pool.BackendCeph, Local: "/var/lib/strata-far",
			Ceph: &pool.Ceph{Cluster: far, Pool: "rbd"},
		}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestParseCephErrors: what is wrong with clusters and pools in them is refused with its
// line.
func TestParseCephErrors(t *testing.T) {
	const pools = "\npools:\n  - name: a\n    local: /a\n    backend: ceph\n"
	cluster := func(lines ...string) string {
		return "clusters:\n  - name: c\n    " + strings.Join(lines, "\n    ")
	}
	const whole = "clusters: [{name: c, conf: /c, user: u}]"
	for _, c := range []struct{ text, want string }{
		{"clusters: c" + pools, "p.yaml:1: clusters must be a list"},
		{"clusters: [c]" + pools, "p.yaml:1: a cluster must have the form"},
		{"clusters: [{user: u}]" + pools, "p.yaml:1: a cluster needs a name"},
		{cluster("user: u") + pools, "p.yaml:2: cluster c needs conf, the path of its ceph.conf, or monitors"},
		{cluster("conf: /c") + pools, "p.yaml:2: cluster c needs a user"},
		{cluster("user: client.admin", "conf: /c") + pools, `p.yaml:3: "client.admin": the user is named without "client."`},
		{cluster("user: 'a b'", "conf: /c") + pools, `p.yaml:3: "a b": a name in Ceph has no white space`},
		{cluster("user: u", "conf: c") + pools, `p.yaml:4: "c" must begin with '/'`},
		{cluster("user: u", "monitors: [m]") + pools, "p.yaml:2: cluster c has no conf, so it needs keyring or keyFile"},
		{cluster("user: u", "conf: /c", "keyring: /k", "keyFile: /f") + pools, "p.yaml:2: cluster c has keyring and keyFile"},
		{cluster("user: u", "monitors: m") + pools, "p.yaml:4: monitors must be a list"},
		{cluster("user: u", "monitors:", "- m", "- m") + pools, "p.yaml:6: monitor m appears twice"},
		{cluster("user: u", "monitors:", "- 'm:'") + pools, `p.yaml:5: "m:" has no port`},
		{cluster("user: u", "monitors:", "- ':1'") + pools, `p.yaml:5: ":1" has no host`},
		{cluster("user: u", "monitors:", "- 'v2:1.2.3.4:5'") + pools, `p.yaml:5: "v2:1.2.3.4:5" is neither`},
		{cluster("user: u", "conf: /c", "key: secret") + pools, `p.yaml:5: unknown key "key"; a cluster may have conf, keyFile, keyring`},
		{"clusters:\n  - {name: c, conf: /c, user: u}\n  - {name: c, conf: /d, user: u}" + pools, "p.yaml:3: cluster c appears twice"},
		{whole + pools, "p.yaml:3: pool a has backend ceph, so it needs cluster"},
		{whole + pools + "    cluster: c", "p.yaml:3: pool a has backend ceph, so it needs cluster"},
		{whole + pools + "    cluster: d\n    cephPool: rbd", "p.yaml:6: no cluster d is under clusters"},
		{whole + pools + "    cluster: c\n    cephPool: rbd/x", `p.yaml:7: "rbd/x": a name in Ceph`},
		{whole + pools + "    cluster: c\n    cephPool: rbd\n    namespace: a@b", `p.yaml:8: "a@b": a name in Ceph`},
		{whole + pools + "    cluster: c\n    cephPool: rbd\n    dataPool: ''", "p.yaml:8: want a text"},
		{whole + pools + "    cluster: c\n    cephPool: rbd\n  - name: b\n    local: /b\n    backend: ceph\n    cluster: c\n    cephPool: rbd", "p.yaml:12: pool a keeps its images there already"},
		{whole + pools + "    cluster: c\n    cephPool: rbd\n    installation: A", `p.yaml:8: installation "A" is no DNS label`},
		{"pools:\n  - name: a\n    local: /a\n    cephPool: rbd", "p.yaml:4: cephPool is for backend ceph, and pool a has backend layered"},
	} {
		_, err := pool.Parse("p.yaml", []byte(c.text))
		if !errors.Is(err, store.ErrInvalid) || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%q:\n got %v\nwant %s", c.text, err, c.want)
		} else if strings.Count(err.Error(), store.ErrInvalid.Error()) != 1 {
			t.Errorf("%q: %v repeats itself", c.text, err)
		}
	}
}

// TestOneGatewayStandsForAll: the gateways of a Ceph pool show the same store, so one that
// does not answer takes nothing away; that none answers is no empty pool.
func TestOneGatewayStandsForAll(t *testing.T) {
	n := pooltest.New()
	s, uuid := n.Add("a:1")
	n.Put("b:1", s)
	gateways := pool.Settings{Name: "p", Backend: pool.BackendCeph, Members: []string{"a:1", "b:1"}}
	set := open(t, n, pool.Options{}, gateways)
	for _, down := range []string{"", "a:1", "b:1"} {
		for _, addr := range gateways.Members {
			n.SetDown(addr, addr == down)
		}
		v := view(t, set)
		if v.Err() != nil || len(v.Members) != 1 || v.Members[0].UUID != uuid || !v.Members[0].Joined || v.Members[0].Addr == down {
			t.Errorf("with %q down: %+v, %v", down, v, v.Err())
		}
	}
	n.SetDown("a:1", true)
	if v := view(t, set); !errors.Is(v.Err(), store.ErrUnavailable) || len(v.Members) != 0 {
		t.Errorf("with all down: %+v, %v", v, v.Err())
	}
}
