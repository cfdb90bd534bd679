package scenario

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/strata-csi/strata/test/e2e/cluster"
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
	before := must(s, "images of strata's pods", func() ([]string, error) { return images(s.ctx) })
	s.step("helm upgrade, all pods ready", func() error { return deploy(s.ctx, "upgrade", "--set", "image.tag="+nextTag()) })
	s.step("all of strata is of the new version", func() error { return onlyImage(s.ctx, ":"+nextTag()) })
	s.step("helm rollback, all pods ready", func() error {
		out, err := helm(s.ctx, "rollback", release, "--wait", "--timeout", patience.String())
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
	s.step("all of strata is of the old version", func() error { return onlyImage(s.ctx, before[0]) })
	for _, name := range names {
		s.endLoad(name)
	}
}

// images returns the images of strata that its pods run, each once.
func images(ctx context.Context) ([]string, error) {
	pods, err := up.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	all := map[string]bool{}
	for _, p := range pods.Items {
		for _, c := range p.Spec.Containers {
			if c.Name == "strata" {
				all[c.Image] = true
			}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("none of %d pods in %s is of strata", len(pods.Items), namespace)
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// onlyImage waits until all pods of strata run an image whose name ends so.
func onlyImage(ctx context.Context, end string) error {
	return cluster.Wait(ctx, "pods of "+end, patience, func(ctx context.Context) (bool, error) {
		all, err := images(ctx)
		return err == nil && len(all) == 1 && strings.HasSuffix(all[0], end), fmt.Errorf("there are %v: %w", all, err)
	})
}

// nextTag is the tag of the image that is upgraded to.
func nextTag() string { return os.Getenv("STRATA_E2E_NEXT") }

// An uninstall takes no data away: installed again, strata has the volumes.
func TestUninstallKeepsData(t *testing.T) {
	s := newSpace(t, "uninstall")
	want := s.write(claim{name: "data"}, workers[0])
	s.step("pod gone", func() error { return s.ended("write-data") })
	s.step("volume detached", s.detached)
	s.step("helm uninstall", func() error {
		out, err := helm(s.ctx, "uninstall", release, "--wait", "--timeout", patience.String())
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
	s.step("helm install, all pods ready", func() error { return install(s.ctx) })
	s.read("data", workers[1], want)
}

// The chart's own test passes, and leaves nothing behind.
func TestHelmTest(t *testing.T) {
	ctx := context.WithoutCancel(t.Context())
	if err := rep.Step(t.Name(), func() error {
		_, err := helm(ctx, "test", release, "--timeout", (2 * patience).String())
		return err
	}); err != nil {
		// The pods of a test that failed stay.
		s := &space{t: t, ctx: ctx, name: namespace, failure: err}
		log, _ := kubectl(ctx, "", "-n", namespace, "logs", "-l", "app.kubernetes.io/component=test", "--tail=8")
		t.Logf("the test's pods wrote:\n%s", log)
		s.describe()
		t.Fatal(err)
	}
	if err := rep.Step(t.Name()+": all deleted", func() error {
		return cluster.Wait(ctx, "claims of the test to go", patience, func(ctx context.Context) (bool, error) {
			left, err := up.Client.CoreV1().PersistentVolumeClaims(namespace).List(ctx, metav1.ListOptions{})
			return err == nil && len(left.Items) == 0, fmt.Errorf("%d claims are left: %w", len(left.Items), err)
		})
	}); err != nil {
		t.Error(err)
	}
}
