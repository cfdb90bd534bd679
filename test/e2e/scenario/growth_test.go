package scenario

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/strata-csi/strata/test/e2e/cluster"
)

// A volume and its file system grow while a pod writes.
func TestExpandUnderLoad(t *testing.T) {
	s := newSpace(t, "grow")
	s.claim(claim{name: "data"})
	s.step("claim bound", func() error { return s.bound("data") })
	s.load("data", workers[0])
	s.step("file system of the running pod is larger", func() error {
		if err := s.patchClaim("data", `{"resources":{"requests":{"storage":"2Gi"}}}`); err != nil {
			return err
		}
		return cluster.Wait(s.ctx, "the pod to see 2 GiB", patience, func(context.Context) (bool, error) {
			out, err := s.exec("load-data", fmt.Sprintf(sizeOf, "data"))
			if err != nil {
				return false, err
			}
			mib, err := strconv.Atoi(out)
			return mib > 1800, fmt.Errorf("it sees %s MiB: %v", out, err)
		})
	})
	s.endLoad("data")
}

const attributesClasses = `
apiVersion: storage.k8s.io/v1
kind: VolumeAttributesClass
metadata: {name: e2e-slow}
driverName: csi.strata.dev
parameters: {bandwidth: 1Mi}
---
apiVersion: storage.k8s.io/v1
kind: VolumeAttributesClass
metadata: {name: e2e-fast}
driverName: csi.strata.dev
parameters: {bandwidth: 500Mi}
`

// A volume's limits change while a pod writes, and hold at once.
func TestAttributesUnderLoad(t *testing.T) {
	classes(t, attributesClasses)
	s := newSpace(t, "attributes")
	s.claim(claim{name: "data", attributes: "e2e-fast"})
	s.step("claim bound", func() error { return s.bound("data") })
	s.load("data", workers[0])
	fast := s.writeTime()
	s.step("attributes changed", func() error {
		if err := s.patchClaim("data", `{"volumeAttributesClassName":"e2e-slow"}`); err != nil {
			return err
		}
		return cluster.Wait(s.ctx, "the claim to have the class", patience, func(ctx context.Context) (bool, error) {
			c, err := up.Client.CoreV1().PersistentVolumeClaims(s.name).Get(ctx, "data", metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			now := c.Status.CurrentVolumeAttributesClassName
			return now != nil && *now == "e2e-slow", fmt.Errorf("status: %+v", c.Status.ModifyVolumeStatus)
		})
	})
	slow := s.writeTime()
	rep.Say("%s: 8 MiB written in %v, at 1 MiB a second in %v", t.Name(), fast, slow)
	if slow < 6*time.Second {
		t.Errorf("8 MiB were written in %v at 1 MiB a second", slow)
	}
	s.endLoad("data")
}

// writeTime returns the time that 8 MiB take past the page cache.
func (s *space) writeTime() time.Duration {
	s.t.Helper()
	begin := time.Now()
	if out, err := s.exec("load-data", "dd if=/dev/zero of=/data/limit bs=64k count=128 oflag=direct 2>&1"); err != nil {
		s.t.Fatalf("write: %v %s", err, out)
	}
	return time.Since(begin).Round(100 * time.Millisecond)
}
