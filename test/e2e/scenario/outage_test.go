package scenario

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/strata-csi/strata/test/e2e/cluster"
)

// Each store's pod is deleted under load: devices wait and go on.
func TestStorePodsDeleted(t *testing.T) {
	s := newSpace(t, "stores")
	for i, n := range workers {
		name := fmt.Sprintf("data%d", i)
		s.claim(claim{name: name})
		s.step("claim bound", func() error { return s.bound(name) })
		s.load(name, n)
	}
	for _, n := range workers {
		s.step("pod of the store on "+n+" deleted, another is ready", func() error { return replacePod(s.ctx, "store", n) })
	}
	for i := range workers {
		s.endLoad(fmt.Sprintf("data%d", i))
	}
}

// replacePod deletes the pod of a component on a node and waits for the next one.
func replacePod(ctx context.Context, component, node string) error {
	options := metav1.ListOptions{
		LabelSelector: labels.Set{"app.kubernetes.io/component": component}.String(),
		FieldSelector: "spec.nodeName=" + node,
	}
	pods, err := up.Client.CoreV1().Pods(namespace).List(ctx, options)
	if err != nil || len(pods.Items) != 1 {
		return fmt.Errorf("%d pods of %s on %s: %v", len(pods.Items), component, node, err)
	}
	old := pods.Items[0]
	if err := up.Client.CoreV1().Pods(namespace).Delete(ctx, old.Name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return cluster.Wait(ctx, component+" on "+node, patience, func(ctx context.Context) (bool, error) {
		pods, err := up.Client.CoreV1().Pods(namespace).List(ctx, options)
		if err != nil {
			return false, err
		}
		for _, p := range pods.Items {
			if p.UID != old.UID && podReady(p) {
				return true, nil
			}
		}
		return false, fmt.Errorf("%d pods, none ready", len(pods.Items))
	})
}

func podReady(p corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// I/O does not need the API server.
func TestAPIServerStopped(t *testing.T) {
	s := newSpace(t, "apiserver")
	s.claim(claim{name: "data"})
	s.step("claim bound", func() error { return s.bound("data") })
	s.load("data", workers[1])
	const outage = 2 * time.Minute
	s.step(fmt.Sprintf("API server stopped for %v", outage), func() error {
		if err := up.Stop("kube-apiserver"); err != nil {
			return err
		}
		over := time.NewTimer(outage)
		defer over.Stop()
		select {
		case <-over.C:
		case <-s.ctx.Done():
		}
		return up.Restart(s.ctx, "kube-apiserver")
	})
	s.endLoad("data")
}
