package cluster

import (
	"strings"
	"testing"
)

// Who is attached has the holder stop and start what is the holder's.
func TestHold(t *testing.T) {
	o := Options{Work: t.TempDir()}
	if _, err := Attach(o); err == nil {
		t.Fatal("attached to a cluster that nobody holds")
	}
	c, err := newCluster(o)
	if err != nil {
		t.Fatal(err)
	}
	h, err := c.hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.start("sleeper", "sleep", "1000"); err != nil {
		t.Fatal(err)
	}
	other := &Cluster{opts: o, attached: true}
	first := c.control["sleeper"]
	if err := other.Stop("sleeper"); err != nil {
		t.Fatal(err)
	}
	if first.Failed() == nil {
		t.Error("asked to stop: it runs on")
	}
	if err := other.Restart(t.Context(), "sleeper"); err != nil {
		t.Fatal(err)
	}
	if err := c.control["sleeper"].Failed(); err != nil {
		t.Errorf("asked to start it again: %v", err)
	}
	for verb, err := range map[string]error{
		"never ran":  other.Restart(t.Context(), "other"),
		"no guest":   other.PowerOff("node7"),
		"no request": other.ask("dance", "node1"),
	} {
		if err == nil || !strings.Contains(err.Error(), verb) {
			t.Errorf("%s: got %v", verb, err)
		}
	}
	if err := h.close(); err != nil {
		t.Error(err)
	}
	if err := other.Stop("sleeper"); err == nil {
		t.Error("asked nobody: no error")
	}
	if err := c.Down(); err != nil {
		t.Error(err)
	}
}
