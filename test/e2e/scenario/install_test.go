package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/strata-csi/strata/test/e2e/cluster"
	"github.com/strata-csi/strata/test/e2e/process"
)

const (
	namespace = "strata"
	release   = "strata"
	// nbdLabel is on the nodes whose kernel has NBD.
	nbdLabel = "e2e.strata/nbd"
)

// placement is all that the chart is told beyond its defaults: which nodes have NBD, and
// that the controllers run on the machine itself, where no processor is emulated.
func placement() []string {
	const control = `[{"key":"node-role.kubernetes.io/control-plane","operator":"Exists"}]`
	var args []string
	for _, of := range []string{"controller", "snapshotController"} {
		args = append(args, "--set-json", of+".tolerations="+control,
			"--set", of+`.nodeSelector.kubernetes\.io/hostname=control`)
	}
	return append(args,
		"--set-string", `node.nodeSelector.e2e\.strata/nbd=true`,
		"--set-string", `store.nodeSelector.e2e\.strata/nbd=true`,
		"--set", "snapshotController.enabled=true")
}

func source(name string) string { return filepath.Join(os.Getenv("STRATA_E2E_SOURCE"), name) }

func tool(name string) string { return filepath.Join(os.Getenv("STRATA_E2E_BIN"), name) }

// sidecars returns the images that the chart names and strata does not make, by the
// program that is in them.
func sidecars(ctx context.Context) (map[string]string, error) {
	out, err := process.Run(ctx, append([]string{tool("helm"), "template", release, source("charts/strata")}, placement()...)...)
	if err != nil {
		return nil, err
	}
	images := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\s*(?:- )?image: "?([^"\s]+)"?$`).FindAllStringSubmatch(out, -1) {
		name, _, _ := strings.Cut(path.Base(m[1]), ":")
		if name != "strata" {
			images[name] = m[1]
		}
	}
	return images, nil
}

// importSidecars makes the images of the sidecars under the chart's names.
func importSidecars(ctx context.Context) error {
	images, err := sidecars(ctx)
	if err != nil {
		return err
	}
	for program, name := range images {
		archive, err := up.SidecarImage(program, name)
		if err != nil {
			return err
		}
		if err := up.Import(ctx, archive, "control"); err != nil {
			return err
		}
	}
	return nil
}

// labelNodes marks the nodes that have NBD.
func labelNodes(ctx context.Context) error {
	patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:"true"}}}`, nbdLabel)
	for _, n := range workers {
		_, err := up.Client.CoreV1().Nodes().Patch(ctx, n, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		if err != nil {
			return fmt.Errorf("label node: %w", err)
		}
	}
	return nil
}

// helm runs helm against the cluster.
func helm(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	return process.Run(ctx, slices.Concat([]string{tool("helm"), "--kubeconfig", up.Kubeconfig, "-n", namespace}, args)...)
}

// kubectl runs kubectl against the cluster, with a manifest as its input if there is one.
func kubectl(ctx context.Context, input string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	return process.Pipe(ctx, []byte(input), append([]string{tool("kubectl"), "--kubeconfig", up.Kubeconfig}, args...)...)
}

// install installs the chart.
func install(ctx context.Context) error {
	return deploy(ctx, "install", "--create-namespace")
}

// deploy installs or upgrades the chart and waits until all of it is ready, or until a
// container keeps ending: helm would wait to the end of its time.
func deploy(ctx context.Context, verb string, args ...string) error {
	before, err := restarts(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := cluster.Wait(ctx, "a container that keeps ending", 2*patience, crashLoop(before))
		if ctx.Err() == nil {
			cancel(err)
		}
	}()
	_, err = helm(ctx, slices.Concat([]string{verb, release, source("charts/strata"),
		"--wait", "--timeout", patience.String()}, placement(), args)...)
	if err != nil {
		err = errors.Join(err, context.Cause(ctx), describePods(context.WithoutCancel(ctx)))
	}
	cancel(nil)
	<-ended
	return err
}

// restarts returns how often each container of the release has ended.
func restarts(ctx context.Context) (map[string]int32, error) {
	pods, err := up.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	ends := map[string]int32{}
	for _, p := range pods.Items {
		for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			ends[p.Name+" "+c.Name] = c.RestartCount
		}
	}
	return ends, nil
}

// crashLoop returns a condition that never holds; it ends the wait when a container of
// the release has ended several times since.
func crashLoop(before map[string]int32) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		now, err := restarts(ctx)
		if err != nil {
			return false, err
		}
		for name, n := range now {
			if n >= before[name]+3 {
				return false, cluster.Final(fmt.Errorf("%s has ended %d times", name, n-before[name]))
			}
		}
		return false, nil
	}
}

// describePods returns an error that says what is wrong with the release's pods, with
// the ends of the logs of containers that are not ready.
func describePods(ctx context.Context) error {
	var b strings.Builder
	out, _ := kubectl(ctx, "", "-n", namespace, "get", "pods", "-o", "wide")
	b.WriteString(out)
	pods, err := up.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, p := range pods.Items {
		for _, c := range p.Status.ContainerStatuses {
			if c.Ready {
				continue
			}
			log, _ := kubectl(ctx, "", "-n", namespace, "logs", "--tail", "20", p.Name, "-c", c.Name)
			before, _ := kubectl(ctx, "", "-n", namespace, "logs", "--tail", "20", "--previous", p.Name, "-c", c.Name)
			fmt.Fprintf(&b, "\n%s %s, log:\n%s\nlog of the one before:\n%s", p.Name, c.Name, log, before)
		}
	}
	return errors.New(b.String())
}
