package scenario

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/test/e2e/process"
	"github.com/strata-csi/strata/test/e2e/verdict"
)

// upstreamClass is what the upstream tests of VolumeAttributesClass change volumes to.
const upstreamClass = `
apiVersion: storage.k8s.io/v1
kind: VolumeAttributesClass
metadata: {name: e2e-upstream}
driverName: csi.strata.dev
parameters: {iops: "5000"}
`

// core are patterns of the upstream tests that every run has: one of each thing that
// users do.
func core() []string {
	return []string{
		`Dynamic PV \(ext4\)\] volumes should store data`,
		`Dynamic PV \(xfs\)\] .*volumes should store data`,
		`Dynamic PV \(block volmode\)\] volumes should store data`,
		`Dynamic PV \(default fs\)\] provisioning should provision storage with pvc data source$`,
		`Dynamic PV \(default fs\)\] provisioning should provision storage with snapshot data source \[`,
		`Dynamic PV \(default fs\)\] subPath should support existing directory$`,
		`Dynamic PV \((default fs|block volmode)\)\(allowExpansion\)\] volume-expand should resize volume when PVC is edited while pod is using it`,
		`read-write-once-pod should block a second pod`,
	}
}

// leftOut are upstream tests that are not run although the driver's declaration admits
// them, with the reason.
func leftOut() map[string]string {
	return map[string]string{
		`(default fs|ext4|xfs|filesystem volmode).*should concurrently access the single volume from pods on different node`: "a file system of a block device cannot be mounted for writing on two nodes",
		`\[Disruptive\]`:               "stops kubelets of nodes by ssh, which these have not; see the scenarios of lost nodes",
		`\[Feature:Windows\]|\(ntfs\)`: "no node runs Windows",
	}
}

// Parts of Kubernetes' own suite for storage drivers.
func TestUpstreamCore(t *testing.T) {
	upstream(t, strings.Join(core(), "|"), 30*time.Minute)
}

// All of it that applies.
func TestUpstreamAll(t *testing.T) {
	if os.Getenv("STRATA_E2E_UPSTREAM") == "" {
		t.Skip("takes hours: make e2e-upstream")
	}
	upstream(t, `External Storage`, 10*time.Hour)
}

// upstream runs tests of the suite and writes what became of each into upstream.md. One
// that fails fails the test.
func upstream(t *testing.T, focus string, timeout time.Duration) {
	t.Helper()
	classes(t, upstreamClass)
	reports := filepath.Join(os.Getenv("STRATA_E2E_WORK"), "upstream")
	if err := os.MkdirAll(reports, 0o755); err != nil {
		t.Fatal(err)
	}
	var skip []string
	for pattern := range leftOut() {
		skip = append(skip, pattern)
	}
	sort.Strings(skip)
	log, err := os.Create(filepath.Join(reports, "output.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	junit := filepath.Join(reports, "junit.xml")
	ctx, cancel := context.WithTimeout(t.Context(), timeout+5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool("upstream.test"), "-test.run=TestStorage", "-test.timeout=0",
		"-storage.testdriver="+source("test/e2e/upstream/driver.yaml"), "-provider=skeleton",
		"-kubeconfig="+up.Kubeconfig, "-kubectl-path="+tool("kubectl"), "-ginkgo.v",
		"-ginkgo.focus="+focus, "-ginkgo.skip="+strings.Join(skip, "|"),
		"-ginkgo.timeout="+timeout.String(), "-ginkgo.junit-report="+junit)
	cmd.Stdout, cmd.Stderr = log, log
	// The tests that fail are in the report, which says more than the exit code.
	runErr := rep.Step(t.Name(), cmd.Run)
	all, err := readVerdicts(junit)
	if err != nil {
		t.Fatalf("%v; the suite ended with: %v", err, runErr)
	}
	if err := os.WriteFile(filepath.Join(reports, "upstream.md"), []byte(verdict.Table(all)), 0o644); err != nil {
		t.Fatal(err)
	}
	if runErr != nil {
		t.Logf("the suite says at its end:\n%s", process.Tail(log.Name(), 30))
	}
	count := map[string]int{}
	for _, o := range all {
		count[o.Result]++
		if o.Result == verdict.Failed {
			t.Errorf("%s: %s", o.Name, o.Reason)
		}
	}
	rep.Say("%s: %d passed, %d failed, %d skipped; table in %s", t.Name(), count[verdict.Passed], count[verdict.Failed], count[verdict.Skipped], reports)
	if count[verdict.Passed] == 0 {
		t.Errorf("no upstream test passed; the suite ended with: %v", runErr)
	}
}

func readVerdicts(file string) ([]verdict.Verdict, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return verdict.Read(content, "[Driver: csi.strata.dev] ", leftOut())
}
