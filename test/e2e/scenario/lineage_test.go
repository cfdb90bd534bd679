package scenario

import (
	"context"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/strata-csi/strata/test/e2e/cluster"
)

const shallowClass = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: e2e-shallow}
provisioner: csi.strata.dev
parameters: {softCloneDepth: "2"}
`

// A chain of clones past its soft limit is flattened by itself, says so in events, and
// every clone keeps its data.
func TestCloneChainFlattens(t *testing.T) {
	const clones = 5
	classes(t, shallowClass)
	s := newSpace(t, "chain")
	want := s.write(claim{name: "gen0", class: "e2e-shallow"}, "")
	s.step(fmt.Sprintf("%d clones, each of the one before, bound", clones), func() error {
		for i := range clones {
			name := fmt.Sprintf("gen%d", i+1)
			s.claim(claim{name: name, class: "e2e-shallow", source: fmt.Sprintf("gen%d", i)})
			if err := s.bound(name); err != nil {
				return err
			}
		}
		return nil
	})
	s.step("events tell of a flatten queued and done", func() error { return s.events("FlattenQueued", "FlattenDone") })
	s.read(fmt.Sprintf("gen%d", clones), "", want)
}

// events waits until objects of the namespace have events with these reasons.
func (s *space) events(reasons ...string) error {
	return cluster.Wait(s.ctx, "events", patience, func(ctx context.Context) (bool, error) {
		list, err := up.Client.CoreV1().Events(s.name).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		seen := map[string]string{}
		for _, e := range list.Items {
			seen[e.Reason] = e.InvolvedObject.Name + ": " + e.Message
		}
		for _, r := range reasons {
			if seen[r] == "" {
				return false, fmt.Errorf("none says %s", r)
			}
		}
		for _, r := range reasons {
			rep.Say("event %s of %s", r, seen[r])
		}
		return true, nil
	})
}
