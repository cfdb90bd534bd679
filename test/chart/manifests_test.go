package chart

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

const deployDir = "../../deploy"

func TestPlainManifestsAreWhatTheChartRenders(t *testing.T) {
	files, err := Manifests(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 3 {
		t.Errorf("%d files", len(files))
	}
	for name, text := range files {
		compare(t, filepath.Join(deployDir, "kubernetes", name), text)
		if strings.Contains(text, "BEGIN") || secret.MatchString(text) {
			t.Errorf("%s holds a key", name)
		}
	}
	// Nothing is in the folder that nobody renders or lists.
	var list struct{ Resources []string }
	text, err := os.ReadFile(filepath.Join(deployDir, "kubernetes/kustomization.yaml"))
	if err == nil {
		err = yaml.Unmarshal(text, &list)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(list.Resources, "snapshot-controller.yaml") {
		if _, err := os.Stat(filepath.Join(deployDir, "kubernetes", name)); err != nil {
			t.Error(err)
		}
		delete(files, name)
	}
	if len(files) > 0 {
		t.Errorf("kustomization.yaml lacks %v", files)
	}
}

// documents are the objects in a file.
func documents(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, d := range strings.Split("\n"+string(text), "\n---") {
		var any map[string]any
		if err := yaml.Unmarshal([]byte(d), &any); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if len(any) > 0 {
			all = append(all, d)
		}
	}
	return all
}

func TestDeployDecodesStrictly(t *testing.T) {
	d := decoder(t)
	paths, err := filepath.Glob(deployDir + "/*/*.yaml")
	if err != nil || len(paths) < 10 {
		t.Fatalf("%d files: %v", len(paths), err)
	}
	for _, path := range paths {
		if filepath.Base(path) == "kustomization.yaml" {
			continue
		}
		all := documents(t, path)
		if len(all) == 0 {
			t.Errorf("%s is empty", path)
		}
		for _, text := range all {
			if _, _, err := d.Decode(text); err != nil {
				t.Errorf("%s: %v\n%s", path, err, text)
			}
		}
	}
}

// TestExamplesUseWhatIsThere: claims name a class that the chart makes with its default
// values, pods mount what they claim, and the README lists each file.
func TestExamplesUseWhatIsThere(t *testing.T) {
	paths, err := filepath.Glob(deployDir + "/examples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(deployDir + "/examples/README.md")
	if err != nil {
		t.Fatal(err)
	}
	d := decoder(t)
	for _, path := range paths {
		if !strings.Contains(string(readme), "`"+filepath.Base(path)+"`") {
			t.Errorf("README.md does not list %s", filepath.Base(path))
		}
		for _, text := range documents(t, path) {
			object, meta, err := d.Decode(text)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range claimsOf(object) {
				if c.StorageClassName == nil || *c.StorageClassName != "strata" {
					t.Errorf("%s: %s is not of the class strata", path, meta.GetName())
				}
			}
		}
	}
}

func claimsOf(o runtime.Object) (specs []corev1.PersistentVolumeClaimSpec) {
	switch o := o.(type) {
	case *corev1.PersistentVolumeClaim:
		specs = append(specs, o.Spec)
	case *appsv1.StatefulSet:
		for _, c := range o.Spec.VolumeClaimTemplates {
			specs = append(specs, c.Spec)
		}
	}
	return specs
}
