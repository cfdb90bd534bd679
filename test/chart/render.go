package chart

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	release "helm.sh/helm/v4/pkg/release/v1"
	releaseutil "helm.sh/helm/v4/pkg/release/v1/util"
)

// Cluster is what a release is rendered for.
type Cluster struct {
	// Version of Kubernetes, as 1.34; "" is the oldest that the chart takes.
	Version string
	// APIs that it has beside those of Kubernetes itself: "group/version" or
	// "group/version/Kind".
	APIs []string
	// Lookup is asked for objects that are there; nil means that there is no cluster to
	// ask, as with helm template.
	Lookup engine.ClientProvider
}

// Release is how the chart is rendered.
type Release struct {
	Name, Namespace string
	// Values over those of the chart.
	Values  map[string]any
	Cluster Cluster
}

// Object is one rendered object.
type Object struct {
	// File is the template it is from, below templates/.
	File string
	// Text is its YAML.
	Text string
	// Hook tells that Helm makes it at another time than the rest.
	Hook bool
}

// oldest is the version of Kubernetes that the chart is rendered for if none is given.
const oldest = "1.30"

// Render renders a chart: its objects in the order in which Helm makes them, hooks last,
// and its notes.
func Render(dir string, r Release) (objects []Object, notes string, err error) {
	chart, err := loader.Load(dir)
	if err != nil {
		return nil, "", fmt.Errorf("load %s: %w", dir, err)
	}
	caps, err := r.Cluster.capabilities()
	if err != nil {
		return nil, "", err
	}
	values, err := util.ToRenderValues(chart, r.Values, common.ReleaseOptions{
		Name: r.Name, Namespace: r.Namespace, Revision: 1, IsInstall: true,
	}, caps)
	if err != nil {
		return nil, "", err
	}
	var files map[string]string
	if r.Cluster.Lookup != nil {
		files, err = engine.RenderWithClientProvider(chart, values, r.Cluster.Lookup)
	} else {
		files, err = engine.Render(chart, values)
	}
	if err != nil {
		return nil, "", err
	}
	for name, text := range files {
		if path.Base(name) == "NOTES.txt" {
			notes = text
			delete(files, name)
		}
		if path.Ext(name) == ".tpl" {
			delete(files, name)
		}
	}
	hooks, manifests, err := releaseutil.SortManifests(files, caps.APIVersions, releaseutil.InstallOrder)
	if err != nil {
		return nil, "", err
	}
	for _, m := range manifests {
		objects = append(objects, Object{File: within(m.Name), Text: strings.TrimSpace(m.Content) + "\n"})
	}
	return append(objects, ordered(hooks)...), notes, nil
}

// ordered are hooks in the order in which Helm makes them.
func ordered(hooks []*release.Hook) (objects []Object) {
	slices.SortStableFunc(hooks, func(a, b *release.Hook) int { return a.Weight - b.Weight })
	for _, h := range hooks {
		objects = append(objects, Object{File: within(h.Path), Text: strings.TrimSpace(h.Manifest) + "\n", Hook: true})
	}
	return objects
}

// within is the path of a template below templates/.
func within(name string) string {
	_, rest, _ := strings.Cut(name, "/templates/")
	return rest
}

func (c Cluster) capabilities() (*common.Capabilities, error) {
	version := c.Version
	if version == "" {
		version = oldest
	}
	kube, err := common.ParseKubeVersion(version + ".0")
	if err != nil {
		return nil, fmt.Errorf("version %q of Kubernetes: %w", version, err)
	}
	caps := common.DefaultCapabilities.Copy()
	caps.KubeVersion = *kube
	caps.APIVersions = append(slices.Clone(caps.APIVersions), c.APIs...)
	return caps, nil
}
