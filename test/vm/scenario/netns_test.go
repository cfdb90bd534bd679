//go:build kernelnbd

package scenario

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// hostName is what the stores' certificates and pools know a store in a namespace by;
// where it is, /etc/hosts says.
const hostName = "store.scenario.test"

// host is a network namespace that a cable (veth) joins to the guest's own.
type host struct {
	t      *testing.T
	name   string
	prefix string // of its network, "10.77.0"
	addr   string
}

// newHost makes a host that is reached at prefix.2.
func newHost(t *testing.T, name, prefix string) *host {
	t.Helper()
	h := &host{t: t, name: name, prefix: prefix, addr: prefix + ".2"}
	tool(t, "ip", "netns", "add", name)
	t.Cleanup(func() {
		// The test's context has ended by now.
		if out, err := exec.Command("ip", "netns", "delete", name).CombinedOutput(); err != nil {
			t.Errorf("delete host %s: %v: %s", name, err, out)
		}
	})
	tool(t, "ip", "link", "add", h.cable(), "type", "veth", "peer", "name", "eth0", "netns", name)
	tool(t, "ip", "address", "add", prefix+".1/24", "dev", h.cable())
	tool(t, "ip", "link", "set", h.cable(), "up")
	h.inside("ip", "link", "set", "lo", "up")
	h.inside("ip", "address", "add", h.addr+"/24", "dev", "eth0")
	h.inside("ip", "link", "set", "eth0", "up")
	h.named()
	return h
}

// cable is the guest's end.
func (h *host) cable() string { return "to-" + h.name }

func (h *host) inside(args ...string) {
	h.t.Helper()
	tool(h.t, "ip", append([]string{"netns", "exec", h.name}, args...)...)
}

// cut drops all that is sent in either direction, without a word to anybody: the ends
// of the cable stay up, so that no one is told that the host is unreachable.
func (h *host) cut() {
	h.t.Helper()
	tool(h.t, "tc", "qdisc", "add", "dev", h.cable(), "root", "netem", "loss", "100%")
	h.inside("tc", "qdisc", "add", "dev", "eth0", "root", "netem", "loss", "100%")
}

func (h *host) join() {
	h.t.Helper()
	tool(h.t, "tc", "qdisc", "delete", "dev", h.cable(), "root")
	h.inside("tc", "qdisc", "delete", "dev", "eth0", "root")
}

// move gives the host another address; nothing answers at the old one.
func (h *host) move(addr string) {
	h.t.Helper()
	h.inside("ip", "address", "delete", h.addr+"/24", "dev", "eth0")
	h.addr = addr
	h.inside("ip", "address", "add", h.addr+"/24", "dev", "eth0")
	h.named()
}

// named has hostName resolve to the host's address.
func (h *host) named() {
	h.t.Helper()
	b, err := os.ReadFile("/etc/hosts")
	if err != nil {
		h.t.Fatal(err)
	}
	var kept strings.Builder
	for line := range strings.Lines(string(b)) {
		if !strings.Contains(line, hostName) {
			kept.WriteString(line)
		}
	}
	fmt.Fprintf(&kept, "%s %s\n", h.addr, hostName)
	if err := os.WriteFile("/etc/hosts", []byte(kept.String()), 0o644); err != nil {
		h.t.Fatal(err)
	}
}
