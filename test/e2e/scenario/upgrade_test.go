package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Everything is upgraded and rolled back under load, without an error.
func TestUpgradeUnderLoad(t *testing.T) {
	s := newSpace(t, "upgrade")
	var names []string
	for i, n := range workers {
		name := fmt.Sprintf("data%d", i)
		names = append(names, name)
		s.claim(claim{name: name})
		s.step("claim bound", func() error { return s.bound(name) })
		s.load(name, n)
	}
	s.step("new image imported", func() error {
		return up.Import(s.ctx, filepath.Join(os.Getenv("STRATA_E2E_WORK"), "strata", "next.tar"))
	})
	s.step("helm upgrade, all pods ready", func() error { return deploy(s.ctx, "upgrade", "--set", "image.tag="+nextTag()) })
	s.step("helm rollback, all pods ready", func() error {
		_, err := helm(s.ctx, "rollback", release, "--wait", "--timeout", "8m")
		return err
	})
	for _, name := range names {
		s.endLoad(name)
	}
}

// nextTag is the tag of the image that is upgraded to.
func nextTag() string { return os.Getenv("STRATA_E2E_NEXT") }

// An uninstall takes no data away: installed again, strata has the volumes.
func TestUninstallKeepsData(t *testing.T) {
	s := newSpace(t, "uninstall")
	want := s.write(claim{name: "data"}, workers[0])
	s.step("pod gone", func() error { return s.ended("write-data") })
	s.step("helm uninstall", func() error {
		_, err := helm(s.ctx, "uninstall", release, "--wait", "--timeout", "5m")
		return err
	})
	s.step("helm install, all pods ready", func() error { return install(s.ctx) })
	s.read("data", workers[1], want)
}

// The chart's own test passes.
func TestHelmTest(t *testing.T) {
	if err := rep.Step(t.Name(), func() error {
		out, err := helm(t.Context(), "test", release, "--timeout", "8m", "--logs")
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
