package scenario

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What deploy/examples shows works as it is, with the commands that users would type;
// only the golden image is made smaller than there.
func TestExamples(t *testing.T) {
	limits := example(t, "volume-attributes.yaml")
	class, _, _ := strings.Cut(limits, "kind: PersistentVolumeClaim")
	classes(t, class[:strings.LastIndex(class, "---")])
	s := newSpace(t, "examples")
	wait := func(args ...string) func() error {
		return func() error {
			_, err := kubectl(s.ctx, "", append([]string{"-n", s.name, "wait", "--timeout=" + patience.String()}, args...)...)
			return err
		}
	}
	rollout := func(what string) func() error {
		return func() error {
			_, err := kubectl(s.ctx, "", "-n", s.name, "rollout", "status", what, "--timeout="+patience.String())
			return err
		}
	}
	const ready = "--for=jsonpath={.status.readyToUse}=true"
	steps := []struct {
		file string
		done func() error
	}{
		{"pvc.yaml", wait("pod/writer", "--for=condition=Ready")},
		{"snapshot.yaml", wait("volumesnapshot/data-monday", ready)},
		{"restore-larger.yaml", wait("pod/restored-reader", "--for=jsonpath={.status.phase}=Succeeded")},
		{"clone.yaml", wait("pvc/data-clone", "--for=jsonpath={.status.phase}=Bound")},
		{"raw-block.yaml", wait("pod/raw-writer", "--for=jsonpath={.status.phase}=Succeeded")},
		{"read-only-many.yaml", rollout("deploy/readers")},
		{"statefulset.yaml", rollout("sts/db")},
		{"volume-attributes.yaml", func() error { return nil }},
	}
	for _, step := range steps {
		s.apply(example(t, step.file))
		s.step(step.file, step.done)
	}
	small := strings.NewReplacer("replicas: 20", "replicas: 4", "count=256", "count=16").Replace(example(t, "golden-image.yaml"))
	before, after, found := strings.Cut(small, "# Apply what follows")
	if !found {
		t.Fatal("golden-image.yaml has no second part")
	}
	s.apply(before)
	s.step("golden-image.yaml: filled", wait("job/golden-fill", "--for=condition=complete"))
	s.apply("# " + after)
	s.step("golden-image.yaml: clones run", rollout("sts/workers"))
}

func example(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(source("deploy/examples"), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
