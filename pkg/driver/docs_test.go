package driver

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocumentedParameters: the page about classes has every key that the driver knows and
// no other, says rightly which can be changed later, and names the file systems.
func TestDocumentedParameters(t *testing.T) {
	text, err := os.ReadFile("../../docs/parameters.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "## StorageClass\n")
	table, _, _ = strings.Cut(table, "\n## ")
	row := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (.+) \\| (.+) \\| (yes|no) \\|$")
	later := map[string]string{"csi.storage.k8s.io/fstype": "no"}
	for _, key := range fixedKeys {
		later[key] = "no"
	}
	for _, key := range mutableKeys {
		later[key] = "yes"
	}
	for _, m := range row.FindAllStringSubmatch(table, -1) {
		key, values, changes := m[1], m[2], m[4]
		if later[key] != changes {
			t.Errorf("%s: the page says %q to whether it can be changed, the driver %q", key, changes, later[key])
		}
		delete(later, key)
		if key == "csi.storage.k8s.io/fstype" {
			var named []string
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(values, -1) {
				named = append(named, m[1])
			}
			if !slices.Equal(named, fileSystems[1:]) {
				t.Errorf("file systems %q, the driver has %q", named, fileSystems[1:])
			}
		}
	}
	for key := range later {
		t.Errorf("the page lacks %s", key)
	}
}

// TestSnapshotClassHasNoKeys: what the page says of it.
func TestSnapshotClassHasNoKeys(t *testing.T) {
	err := new(parameters).read(map[string]string{"softCloneDepth": "4", reserved + "x": "y"}, nil)
	if err == nil || !strings.Contains(err.Error(), `unknown parameter "softCloneDepth"; known are none`) {
		t.Errorf("%v", err)
	}
}
