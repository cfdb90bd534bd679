package scenario

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/strata-csi/strata/test/e2e/process"
)

// widest is where lines of a description are cut.
const widest = 240

// describe prints what tells the cause of a failure in fewer lines than people look at
// the end of a log: the namespace, its events, what its pods wrote, what strata and the
// nodes' kernels complain of, and at last the failure.
func (s *space) describe() {
	var b strings.Builder
	show := func(title string, lines int, out string) {
		if all := last(out, lines); all != "" {
			fmt.Fprintf(&b, "--- %s\n%s\n", title, all)
		}
	}
	get := func(args ...string) string {
		out, err := kubectl(s.ctx, "", args...)
		if err != nil {
			return err.Error()
		}
		return out
	}
	show("objects", 9, get("-n", s.name, "get", "pods,pvc", "--no-headers", "-o",
		"custom-columns=K:.kind,N:.metadata.name,P:.status.phase,ON:.spec.nodeName,V:.spec.volumeName,DEL:.metadata.deletionTimestamp"))
	show("events", 9, get("-n", s.name, "get", "events", "--no-headers", "--field-selector", "type!=Normal", "--sort-by=.lastTimestamp",
		"-o", "custom-columns=AT:.lastTimestamp,K:.involvedObject.kind,N:.involvedObject.name,R:.reason,S:.message"))
	show("attachments with errors", 3, get("get", "volumeattachments", "-o",
		`jsonpath={range .items[?(@.status.attachError)]}{.spec.nodeName} {.spec.source.persistentVolumeName} {.status.attachError.message}{"\n"}{end}`))
	for _, p := range s.pods(s.name) {
		if p.Status.Phase == corev1.PodFailed {
			show("log of "+p.Name, 3, get("-n", s.name, "logs", p.Name))
		}
	}
	for _, p := range s.pods(namespace) {
		if p.Labels["app.kubernetes.io/component"] == "snapshot-controller" {
			continue
		}
		title := fmt.Sprintf("%s on %s, %s, complains", p.Name, p.Spec.NodeName, p.Status.Phase)
		show(title, 3, complaints(get("-n", namespace, "logs", "--tail=300", p.Name, "-c", "strata")))
	}
	for _, n := range workers {
		log := filepath.Join(up.GuestFolder(n), "share", "log", "kernel.log")
		show("kernel of "+n, 2, kernelWords.FindString(process.Tail(log, 20)))
	}
	s.t.Logf("what there is when %s has failed:\n%s--- failed\n%.900v", s.t.Name(), b.String(), s.failure)
}

// kernelWords match what the kernel says of block devices and file systems.
var kernelWords = regexp.MustCompile(`(?m)^.*(nbd|EXT4|XFS|I/O error|hung|BUG|WARNING).*(\n.*(nbd|EXT4|XFS|I/O error|hung|BUG|WARNING).*)*`)

// complaints are the lines of a log that tell of an error.
func complaints(log string) string {
	var all []string
	for line := range strings.Lines(log) {
		if strings.HasPrefix(line, "E") || strings.Contains(line, "err=") || strings.Contains(line, `"error"`) {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return strings.Join(all, "\n")
}

// last returns the last lines of a text, each cut where it gets too wide.
func last(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	all = all[max(0, len(all)-lines):]
	for i, line := range all {
		all[i] = line[:min(len(line), widest)]
	}
	return strings.Join(all, "\n")
}

// pods lists the pods of a namespace, none when that cannot be done.
func (s *space) pods(of string) []corev1.Pod {
	list, err := up.Client.CoreV1().Pods(of).List(s.ctx, metav1.ListOptions{})
	if err != nil {
		return nil
	}
	return list.Items
}
