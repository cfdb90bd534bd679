package app

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd"
)

// TestGatewayOptions: what the pools file says reaches the backend.
func TestGatewayOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pools.yaml")
	const text = `clusters:
  - {name: near, conf: /c, user: strata, keyring: /k}
  - {name: far, monitors: ["10.0.0.1:3300", "10.0.0.2:3300"], user: other, keyFile: /f}
pools:
  - {name: a, backend: ceph, cluster: near, cephPool: rbd, namespace: n, dataPool: d, installation: i, local: /a}
  - {name: b, backend: ceph, cluster: far, cephPool: rbd, local: /b}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]rbd.Options{
		"a": {
			ConfigFile: "/c", User: "strata", Config: map[string]string{"keyring": "/k"},
			Pool: "rbd", Namespace: "n", DataPool: "d", Installation: "i", Member: host + ":/data",
		},
		"b": {
			User: "other", Config: map[string]string{"keyfile": "/f", "mon_host": "10.0.0.1:3300,10.0.0.2:3300"},
			Pool: "rbd", Member: host + ":/data",
		},
	} {
		g, err := Gateway{PoolsFile: file, Pool: name}.load("/data")
		if err != nil || !reflect.DeepEqual(g.options, want) {
			t.Errorf("%s: %v\ngot  %+v\nwant %+v", name, err, g.options, want)
		}
	}
	g, err := Gateway{PoolsFile: file, Pool: "a", Member: "node-7"}.load("/data")
	if err != nil || g.options.Member != "node-7" {
		t.Errorf("a member that is named: %+v, %v", g.options, err)
	}
}

// TestMemberNamesDiffer: gateways of one host that serve different directories are never
// taken for one another, however long the names are.
func TestMemberNamesDiffer(t *testing.T) {
	long := "/" + strings.Repeat("d", store.MaxName)
	seen := make(map[string]string)
	for _, data := range []string{"/a", "/b", long + "a", long + "b"} {
		name, err := member(data)
		if err != nil || len(name) > store.MaxName {
			t.Errorf("%.9s: %q, %v", data, name, err)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("%.9s and %.9s are both %q", data, other, name)
		}
		seen[name] = data
	}
}
