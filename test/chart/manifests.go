package chart

import (
	"fmt"
	"regexp"
	"strings"
)

// manifestsNamespace is where the plain manifests put strata.
const manifestsNamespace = "strata"

// helmOnly are labels that say nothing without Helm.
var helmOnly = regexp.MustCompile(`(?m)^ *(app\.kubernetes\.io/managed-by|helm\.sh/chart|helm\.sh/resource-policy): .*\n`)

// manifestsIn tells which file each template goes to; the rest is in strata.yaml.
var manifestsIn = []struct{ prefix, file string }{
	{"classes/snapshot", "snapshot-class.yaml"},
	{"snapshot-controller/", "snapshot-controller.yaml"},
}

// Manifests renders the chart with its default values, but for certificates, as plain
// manifests: files by name. Keys have no place in them, so Secrets are left to be made.
func Manifests(dir string) (map[string]string, error) {
	objects, _, err := Render(dir, Release{
		Name: "strata", Namespace: manifestsNamespace,
		Values: map[string]any{
			"tls":                map[string]any{"source": "existing"},
			"snapshotController": map[string]any{"enabled": true},
		},
		Cluster: Cluster{APIs: []string{"snapshot.storage.k8s.io/v1"}},
	})
	if err != nil {
		return nil, fmt.Errorf("plain manifests: %w", err)
	}
	files := make(map[string]string)
	for _, o := range objects {
		if o.Hook {
			continue
		}
		name := "strata.yaml"
		for _, in := range manifestsIn {
			if strings.HasPrefix(o.File, in.prefix) {
				name = in.file
			}
		}
		if files[name] == "" {
			files[name] = "# Rendered from charts/strata by hack/chart.sh update; do not edit.\n"
		}
		files[name] += "---\n" + trailing.ReplaceAllString(helmOnly.ReplaceAllString(o.Text, ""), "")
	}
	return files, nil
}

// trailing are the blanks that templates leave behind.
var trailing = regexp.MustCompile(`(?m)[ \t]+$`)
