package chart

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

const (
	chartDir = "../../charts/strata"
	// updateEnv, set to anything, makes the tests write what they would compare with.
	updateEnv = "STRATA_UPDATE"
)

// valuesFiles are the cases, by name.
func valuesFiles(t *testing.T) map[string]Release {
	t.Helper()
	paths, err := filepath.Glob("testdata/values/*.yaml")
	if err != nil || len(paths) < 6 {
		t.Fatalf("%d values files: %v", len(paths), err)
	}
	cases := make(map[string]Release)
	for _, path := range paths {
		cases[strings.TrimSuffix(filepath.Base(path), ".yaml")] = readRelease(t, path)
	}
	return cases
}

// readRelease reads a values file. Comments in it name the cluster: "# apis: …" and
// "# kubernetes: …".
func readRelease(t *testing.T, path string) Release {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := Release{Name: "strata", Namespace: "storage"}
	if err := yaml.UnmarshalStrict(text, &r.Values); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	for line := range strings.Lines(string(text)) {
		if apis, ok := strings.CutPrefix(line, "# apis: "); ok {
			r.Cluster.APIs = strings.Fields(apis)
		}
		if version, ok := strings.CutPrefix(line, "# kubernetes: "); ok {
			r.Cluster.Version = strings.TrimSpace(version)
		}
	}
	return r
}

// secret is what differs each time: PEM in base64, and when it is to be renewed.
var secret = regexp.MustCompile(`(LS0tLS1CRUdJTi[A-Za-z0-9+/=]+|renew-after: "\d+")`)

func rendered(t *testing.T, r Release) ([]Object, string) {
	t.Helper()
	objects, notes, err := Render(chartDir, r)
	if err != nil {
		t.Fatal(err)
	}
	return objects, notes
}

func TestGolden(t *testing.T) {
	for name, r := range valuesFiles(t) {
		t.Run(name, func(t *testing.T) {
			objects, notes := rendered(t, r)
			var b strings.Builder
			fmt.Fprintf(&b, "# NOTES.txt\n%s\n", regexp.MustCompile(`(?m)^`).ReplaceAllString(strings.TrimRight(notes, "\n"), "# "))
			for _, o := range objects {
				fmt.Fprintf(&b, "---\n# %s\n%s", o.File, secret.ReplaceAllString(o.Text, "MADE ANEW"))
			}
			// Lines of blanks are what templates leave behind.
			compare(t, filepath.Join("testdata/golden", name+".yaml"), regexp.MustCompile(`(?m)[ \t]+$`).ReplaceAllString(b.String(), ""))
		})
	}
}

// compare compares with a file, or writes it.
func compare(t *testing.T, path, got string) {
	t.Helper()
	if os.Getenv(updateEnv) != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s differs; look at it, then %s=1 writes it anew:\n%s", path, updateEnv, diff)
	}
}
