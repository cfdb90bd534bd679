package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/strata-csi/strata/test/e2e/process"
)

// refused is what the API server had against rendered objects. They are shown to it
// before strata is installed, since objects without a namespace would be there then.
var refused error //nolint:gochecknoglobals // set once, before the first test

// The API server takes everything that the chart renders for the values files of
// test/chart, as far as it has the kinds.
func TestRenderedObjectsAreAccepted(t *testing.T) {
	if os.Getenv("STRATA_E2E_ATTACH") != "" {
		t.Skip("another process has set the cluster up")
	}
	if refused != nil {
		t.Error(refused)
	}
}

// showRendered shows the API server what the chart renders for every values file.
func showRendered(ctx context.Context) (err error) {
	crds := source("charts/strata/files/snapshot-crds")
	setUp := [][]string{{"create", "namespace", "storage"}, {"create", "-f", crds}}
	for _, args := range setUp {
		if _, err := kubectl(ctx, "", args...); err != nil {
			return err
		}
	}
	defer func() {
		_, crdErr := kubectl(ctx, "", "delete", "-f", crds, "--timeout="+patience.String())
		_, nsErr := kubectl(ctx, "", "delete", "namespace", "storage", "--timeout="+patience.String())
		err = errors.Join(err, crdErr, nsErr)
	}()
	kinds, err := knownKinds()
	if err != nil {
		return err
	}
	files, err := filepath.Glob(source("test/chart/testdata/values/*.yaml"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("find values files: %d, %v", len(files), err)
	}
	var all []error
	for _, f := range files {
		content, err := render(ctx, f)
		if err != nil {
			return err
		}
		known, shown, left := choose(content, kinds)
		rep.Say("%s: %d objects shown to the API server, not of it: %s", filepath.Base(f), shown, left)
		if _, err := kubectl(ctx, known, "apply", "--server-side", "--dry-run=server",
			"--force-conflicts", "--validate=strict", "-f", "-"); err != nil {
			all = append(all, fmt.Errorf("%s: %w", filepath.Base(f), err))
		}
	}
	refused = errors.Join(all...)
	return nil
}

// render renders the chart for a values file, which says in its head what APIs there are.
func render(ctx context.Context, file string) ([]byte, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	args := []string{tool("helm"), "template", release, source("charts/strata"), "-n", "storage", "-f", file}
	for line := range strings.Lines(string(content)) {
		if apis, ok := strings.CutPrefix(line, "# apis: "); ok {
			for _, api := range strings.Fields(apis) {
				args = append(args, "--api-versions", api)
			}
		}
		if version, ok := strings.CutPrefix(line, "# kubernetes: "); ok {
			args = append(args, "--kube-version", strings.TrimSpace(version))
		}
	}
	out, err := process.Run(ctx, args...)
	return []byte(out), err
}

// knownKinds returns what the API server has.
func knownKinds() (map[schema.GroupVersionKind]bool, error) {
	_, lists, err := up.Client.Discovery().ServerGroupsAndResources()
	if err != nil {
		return nil, fmt.Errorf("ask for kinds: %w", err)
	}
	kinds := map[schema.GroupVersionKind]bool{}
	for _, l := range lists {
		for _, r := range l.APIResources {
			kinds[schema.FromAPIVersionAndKind(l.GroupVersion, r.Kind)] = true
		}
	}
	return kinds, nil
}

// choose returns the objects of known kinds, how many they are, and the other kinds.
func choose(content []byte, kinds map[schema.GroupVersionKind]bool) (known string, shown int, left string) {
	var b strings.Builder
	others := map[string]bool{}
	for _, doc := range bytes.Split(content, []byte("\n---\n")) {
		var o struct{ APIVersion, Kind string }
		err := yaml.Unmarshal(doc, &o)
		if err == nil && o.Kind == "" {
			continue // comments
		}
		// What is no object at all is for the API server to refuse.
		if err == nil && !kinds[schema.FromAPIVersionAndKind(o.APIVersion, o.Kind)] {
			others[o.Kind] = true
			continue
		}
		fmt.Fprintf(&b, "---\n%s\n", doc)
		shown++
	}
	var names []string
	for k := range others {
		names = append(names, k)
	}
	return b.String(), shown, or(strings.Join(names, ", "), "none")
}
