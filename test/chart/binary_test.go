package chart

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// buildStrata builds the program that the chart runs.
func buildStrata(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "strata")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/strata")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build strata: %v\n%s", err, out)
	}
	return path
}

// TestStrataTakesTheFlags: every flag in a pod is one of the program's, and every pools
// file is one that it reads.
func TestStrataTakesTheFlags(t *testing.T) {
	strata := buildStrata(t)
	flags := make(map[string]string) // what --help says, by verb
	help := func(verb string) string {
		if flags[verb] == "" {
			out, err := exec.Command(strata, verb, "--help").CombinedOutput()
			if err != nil {
				t.Fatalf("%s: %v\n%s", verb, err, out)
			}
			flags[verb] = string(out)
		}
		return flags[verb]
	}
	d := decoder(t)
	for name, r := range valuesFiles(t) {
		objects, _ := rendered(t, r)
		for _, p := range podsOf(t, objects) {
			for _, c := range p.spec.Containers {
				if c.Name != "strata" {
					continue
				}
				verb := c.Args[0]
				for _, arg := range c.Args[1:] {
					flag, _, _ := strings.Cut(arg, "=")
					if !regexp.MustCompile(`(?m)^ .*` + regexp.QuoteMeta(flag) + `( |$)`).MatchString(help(verb)) {
						t.Errorf("%s: %s: strata %s has no flag %s", name, p.name, verb, flag)
					}
				}
			}
		}
		for _, o := range objects {
			object, _, err := d.Decode(o.Text)
			if err != nil {
				t.Fatal(err)
			}
			if m, ok := object.(*corev1.ConfigMap); ok && strings.HasSuffix(m.Name, "-pools") {
				for key, text := range m.Data {
					readPools(t, strata, name+": "+key, text)
				}
			}
		}
	}
}

// readPools lets the program read a pools file.
func readPools(t *testing.T, strata, where, text string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pools.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// A store that is asked for a pool which is not there has read the whole file.
	out, err := exec.Command(strata, "store", "--backend=rbd", "--data="+t.TempDir(), "--pools="+path, "--pool=none").CombinedOutput()
	if err == nil || !strings.Contains(string(out), `has no pool "none"`) {
		t.Errorf("%s: %s\n%s", where, out, text)
	}
}
