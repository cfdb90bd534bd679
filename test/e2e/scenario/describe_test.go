package scenario

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/strata-csi/strata/test/e2e/process"
)

// widest is where lines of a description are cut.
const widest = 320

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
		"-o", "custom-columns=AT:.lastTimestamp,N:.involvedObject.name,R:.reason,S:.message"))
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

// complaints are the errors that a log tells of, with their time and cause; of those that
// are told again and again, the last.
func complaints(log string) string {
	var all []string
	for line := range strings.Lines(log) {
		head, cause, found := strings.Cut(strings.TrimSpace(line), " err=")
		if !found {
			continue
		}
		said := func(other string) bool { return strings.HasSuffix(other, cause) }
		all = append(slices.DeleteFunc(all, said), head[:min(len(head), len("I1122 22:36:00"))]+" "+cause)
	}
	return strings.Join(all, "\n")
}

// noise is what says in every message of kubelet which volume it is of, and in whose words.
var noise = regexp.MustCompile(`(for volume "[^"]*" : )?(rpc error: )+| {2,}`)

// last returns the last lines of a text, each cut where it gets too wide.
func last(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	all = all[max(0, len(all)-lines):]
	for i, line := range all {
		line = noise.ReplaceAllString(line, " ")
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
