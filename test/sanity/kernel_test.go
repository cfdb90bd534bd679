//go:build kernelnbd && !ceph

package sanity

import (
	"path/filepath"
	"testing"
)

// TestSanity runs all of csi-sanity, in mount and in block mode, against one process
// that is store, controller and node. It is a process of its own: one that serves the
// devices on which it waits could wait for ever.
func TestSanity(t *testing.T) {
	dir := t.TempDir()
	d := target{controller: filepath.Join(dir, "csi.sock"), data: filepath.Join(dir, "data")}
	d.node = d.controller
	wantNoDevices(t)
	strata(t, "all", "--data", d.data, "--init", "--endpoint", "unix://"+d.controller,
		"--state", filepath.Join(dir, "node"), "--node-id", "sanity", "--nbd-range", "64-71")
	run(t, d, nil, "mount", "block")
}
