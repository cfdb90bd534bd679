package chart

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestWrongValues: each is refused with a message that names the value and what it may be.
func TestWrongValues(t *testing.T) {
	for values, want := range map[string]string{
		// The schema.
		"store: {mode: Deployment}":                                            `'/store/mode': value must be one of 'DaemonSet', 'StatefulSet'`,
		"storre: {}":                                                           `additional properties 'storre' not allowed`,
		"store: {hostpath: /x}":                                                `'/store': additional properties 'hostpath' not allowed`,
		"store: {hostPath: data}":                                              `'/store/hostPath': 'data' does not match pattern`,
		"store: {ports: {api: 70000}}":                                         `'/store/ports/api': maximum: got 70,000, want 65,535`,
		"store: {ack: yes}":                                                    `'/store/ack': value must be one of 'buffered', 'stable'`,
		"store: {copyRate: fast}":                                              `'/store/copyRate': 'fast' does not match pattern`,
		"store: {scrubEvery: weekly}":                                          `'/store/scrubEvery'`,
		"store: {resources: {limits: {memory: 1Gi}}}":                          `'/store/resources/limits/memory': false schema`,
		"controller: {replicas: 0}":                                            `'/controller/replicas': minimum: got 0, want 1`,
		"controller: {replicas: two}":                                          `'/controller/replicas': got string, want integer`,
		"node: {nbdRange: all}":                                                `'/node/nbdRange': 'all' does not match pattern`,
		"node: {deadTimeout: forever}":                                         `'/node/deadTimeout': 'forever' does not match pattern`,
		"tls: {source: selfSigned}":                                            `'/tls/source': value must be one of 'chart', 'certManager', 'existing', 'none'`,
		"image: {digest: latest}":                                              `'/image/digest': 'latest' does not match pattern`,
		"pools: []":                                                            `'/pools': minItems: got 0, want 1`,
		"pools: [{name: Big}]":                                                 `'/pools/0/name': 'Big' does not match pattern`,
		"pools: [{name: a, backend: zfs}]":                                     `'/pools/0/backend': value must be one of 'layered', 'ceph'`,
		"pools: [{name: a, members: [here]}]":                                  `'/pools/0/members/0': 'here' does not match pattern`,
		"pools: [{name: a, backend: ceph}]":                                    `missing property 'ceph'`,
		"pools: [{name: a, cloneMode: deep}]":                                  `'/pools/0/cloneMode': value must be one of 'cow', 'flatten', 'copy'`,
		"storageClasses: [{name: a, fsType: btrfs}]":                           `'/storageClasses/0/fsType': value must be one of 'ext4', 'xfs'`,
		"storageClasses: [{name: a, parameters: {softclonedepth: '1'}}]":       `additional properties 'softclonedepth' not allowed`,
		"storageClasses: [{name: a, parameters: {iops: 100}}]":                 `'/storageClasses/0/parameters/iops': got number, want string`,
		"volumeAttributesClasses: [{name: a, parameters: {blockSize: '512'}}]": `additional properties 'blockSize' not allowed`,
		"volumeSnapshotClasses: [{name: a, parameters: {x: y}}]":               `/volumeSnapshotClasses/0/parameters`,
		"csiDriver: {attachRequired: false}":                                   `'/csiDriver': additional properties 'attachRequired' not allowed`,
		"csiDriver: {nodeAllocatableUpdatePeriodSeconds: 1}":                   `minimum: got 1, want 10`,

		// How values fit together.
		"pools: [{name: a}, {name: b, backend: ceph, ceph: {cluster: c, pool: p}}]":                                                                                                      "b is on the Ceph cluster c, which is not among ceph.clusters",
		"{pools: [{name: a, default: true}, {name: b, backend: ceph, ceph: {cluster: c, pool: p}}], ceph: {clusters: [{name: c, monitors: [h], user: u, key: k}]}}":                      "name it in ceph.gateway.image",
		"{pools: [{name: a, default: true}, {name: b, backend: ceph, ceph: {cluster: c, pool: p, ports: {api: 10809}}}], ceph: {clusters: [{name: c, monitors: [h], user: u, key: k}]}}": "port 10809 of the gateways of b is in use",
		"ceph: {clusters: [{name: c, monitors: [h], user: u}]}":                                                                                                                          "c needs key, or existingSecret",
		"ceph: {clusters: [{name: c, monitors: [h], user: client.u}]}":                                                                                                                   "the user of c is named without client.",
		"pools: [{name: a}, {name: b}]":                                                 "a, b are all of this chart's stores",
		"pools: [{name: a}, {name: a, members: ['h:1']}]":                               "a appears twice",
		"pools: [{name: a, default: true}, {name: b, default: true, members: ['h:1']}]": "at most one may have default: true",
		"pools: [{name: a, members: ['h:1']}]":                                          "no pool is of this chart's stores",
		"store: {enabled: false}":                                                       "default is of this chart's stores, and store.enabled is false",
		"storageClasses: [{name: x, pool: other}]":                                      "x names the pool other, which is not among pools",
		"{pools: [{name: a}, {name: b, members: ['h:1']}]}":                             "strata names no pool, and none of the pools has default: true",
		"store: {ports: {nbd: 10808}}":                                                  "must differ",
		"store: {recordPath: /var/lib/strata/record}":                                   "store.recordPath (/var/lib/strata/record) must be outside of store.hostPath",
		"{store: {mode: StatefulSet, statefulSet: {storageClassName: strata}}}":         "which these stores would have to serve themselves",
		"{store: {mode: StatefulSet}, storageClasses: [{name: x, default: true}]}":      "x is the cluster's default",
		"tls: {source: certManager}":                                                    "the cluster has no cert-manager.io/v1",
		"tls: {certificateDays: 4000}":                                                  "must not exceed tls.caDays",
		"metrics: {podMonitor: {enabled: true}}":                                        "the cluster has no monitoring.coreos.com/v1",
	} {
		var v map[string]any
		if err := yaml.Unmarshal([]byte(values), &v); err != nil {
			t.Fatalf("%s: %v", values, err)
		}
		_, _, err := Render(chartDir, Release{Name: "strata", Namespace: "strata", Values: v})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", values, err, want)
		}
	}
}

// TestSchemaKnowsEveryValue: what is in values.yaml is described, and nothing else is.
func TestSchemaKnowsEveryValue(t *testing.T) {
	var schema, values map[string]any
	for path, to := range map[string]*map[string]any{"values.schema.json": &schema, "values.yaml": &values} {
		text, err := os.ReadFile(chartDir + "/" + path)
		if err == nil {
			err = yaml.Unmarshal(text, to)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	known := keys(schema["properties"])
	delete(known, "global") // of Helm
	for k := range keys(values) {
		if !known[k] {
			t.Errorf("values.schema.json lacks %s", k)
		}
		delete(known, k)
	}
	for k := range known {
		t.Errorf("values.yaml lacks %s", k)
	}
}

func keys(v any) map[string]bool {
	all := make(map[string]bool)
	for k := range v.(map[string]any) {
		all[k] = true
	}
	return all
}

// TestValuesAreUsed: each value is named in some template.
func TestValuesAreUsed(t *testing.T) {
	templates := chartText(t)
	text, err := os.ReadFile(chartDir + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		m, ok := v.(map[string]any)
		if !ok {
			return
		}
		for k, below := range m {
			if !regexp.MustCompile(`\b` + k + `\b`).MatchString(templates) {
				// What is handed on as it is has no names of ours in it.
				if !regexp.MustCompile(`(?i)(resources|securityContext|updateStrategy|nodeSelector)`).MatchString(path) {
					t.Errorf("no template uses %s.%s", path, k)
				}
			}
			walk(path+"."+k, below)
		}
	}
	walk("", values)
}
