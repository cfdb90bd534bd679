package chart

import (
	"os"
	"regexp"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestDocumentedVersion: the image that the documents tell to build is the one that the
// chart asks for.
func TestDocumentedVersion(t *testing.T) {
	text, err := os.ReadFile(chartDir + "/Chart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var chart struct {
		AppVersion string `json:"appVersion"`
	}
	if err := yaml.Unmarshal(text, &chart); err != nil || chart.AppVersion == "" {
		t.Fatalf("appVersion %q: %v", chart.AppVersion, err)
	}
	for _, path := range []string{"../../README.md", chartDir + "/README.md", "../../deploy/kubernetes/README.md"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		told := regexp.MustCompile(`make image VERSION=(\S+?)[`+"`"+`\s]`).FindAllStringSubmatch(string(text), -1)
		if len(told) == 0 {
			t.Errorf("%s does not say how to build the image", path)
		}
		for _, m := range told {
			if m[1] != chart.AppVersion {
				t.Errorf("%s says version %s, the chart asks for %s", path, m[1], chart.AppVersion)
			}
		}
	}
}
