//go:build kernelnbd

package scenario

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
)

// A snapshot is taken while its volume is written to, so that its journal is not empty,
// and is read by two nodes at once, beside the volume itself. Each has the journal
// replayed into a head of its own: neither sees the other, none changes the snapshot, and
// nothing is left of them.
func TestSnapshotIsReadByManyNodes(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			r, c := random(t), single(t, "n1", "n2")
			v := c.create("written", 512*mib, fsVolume(fs), nil, nil)
			at := c.up(v, "n1")
			sum := writeFile(t, filepath.Join(at, "data"), 8*mib, r)
			load := startSteady(t, filepath.Join(at, "steady"), 8*mib, r)
			load.advance(t, 200, time.Minute)
			dirtyPages(t, filepath.Join(at, "dirty"))
			snap := c.snapshot(v, "under-load")
			load.advance(t, 50, time.Minute)

			readers := c.create("readers", 512*mib, manyReaders(fs), fromSnapshot(snap), nil)
			for range 2 { // the second time on fresh heads
				for _, node := range []string{"n1", "n2"} {
					path := c.up(readers, node)
					if got := sumFile(t, filepath.Join(path, "data")); got != sum {
						t.Errorf("on %s the file is %s; before the snapshot it was %s", node, got, sum)
					}
					if err := os.WriteFile(filepath.Join(path, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
						t.Errorf("writing on %s: %v, want EROFS", node, err)
					}
				}
				c.down(readers, "n1")
				c.down(readers, "n2")
			}
			if err := load.halt(); err != nil {
				t.Errorf("the writer of the volume: %v", err)
			}
			load.file.Close()
			c.removeSnapshot(snap)
			c.down(v, "n1")
			c.fsck(c.stores[0], "written", fs)
			c.remove(readers)
			c.remove(v)
			c.log.clean(t)
			c.ended()
		})
	}
}

// manyReaders is a capability for a file system that many nodes read.
func manyReaders(fs string) *csi.VolumeCapability {
	c := fsVolume(fs)
	c.AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	return c
}
