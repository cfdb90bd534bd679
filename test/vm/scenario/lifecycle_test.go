//go:build kernelnbd

package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// What a user does first: a volume, data, a snapshot, a larger volume from it beside
// the first on the same node. The restored file system has the same identifiers as its
// source, and the size of its new volume.
func TestSnapshotRestoredBesideItsSource(t *testing.T) {
	for _, fs := range []string{"ext4", "ext3", "xfs"} {
		t.Run(fs, func(t *testing.T) { restoredBesideItsSource(single(t, "n1"), fs) })
	}
}

func restoredBesideItsSource(c *cluster, fs string) {
	t := c.t
	r := random(t)
	v := c.create("source", 512*mib, fsVolume(fs), nil, nil)
	at := c.up(v, "n1")
	before := writeFile(t, filepath.Join(at, "data"), 24*mib, r)
	snap := c.snapshot(v, "snap")
	after := writeFile(t, filepath.Join(at, "data"), 24*mib, r)

	restored := c.create("restored", gib, fsVolume(fs), fromSnapshot(snap), nil)
	beside := c.up(restored, "n1")
	if got := sumFile(t, filepath.Join(beside, "data")); got != before {
		t.Errorf("the restored file is %s; written before the snapshot was %s", got, before)
	}
	if got := sumFile(t, filepath.Join(at, "data")); got != after {
		t.Errorf("the source's file is %s; written after the snapshot was %s", got, after)
	}
	if got := capacity(t, beside); got < 900*mib {
		t.Errorf("the restored file system has %d MiB; its volume has 1024", got/mib)
	}
	// Both can be written, and neither shows in the other.
	one, two := writeFile(t, filepath.Join(at, "own"), 4*mib, r), writeFile(t, filepath.Join(beside, "own"), 4*mib, r)
	if sumFile(t, filepath.Join(at, "own")) != one || sumFile(t, filepath.Join(beside, "own")) != two {
		t.Error("source and restored volume share what was written to one of them")
	}
	c.removeSnapshot(snap)
	c.down(v, "n1")
	c.down(restored, "n1")
	c.fsck(c.stores[0], "source", fs)
	c.fsck(c.stores[0], "restored", fs)
	c.remove(v)
	c.remove(restored)
	c.log.clean(t)
	c.ended()
}

// imageInfo is what `strata info` says of an image.
type imageInfo struct {
	Depth int    `json:"depth"`
	State string `json:"state"`
}

func (c *cluster) info(s *storeHost, name string) (imageInfo, error) {
	var i imageInfo
	return i, json.Unmarshal([]byte(c.strata(s, "info", name, "--format", "json")), &i)
}

// Clones of clones: past the soft limit a flatten comes by itself, under load on the
// newest clone and with its source in use.
func TestCloneOfCloneIsFlattened(t *testing.T) { cloneOfCloneIsFlattened(single(t, "n1")) }

func cloneOfCloneIsFlattened(c *cluster) {
	const soft, links = 2, 5
	t := c.t
	r := random(t)
	parameters := map[string]string{"softCloneDepth": fmt.Sprint(soft)}
	v := c.create("gen-0", 256*mib, fsVolume("ext4"), nil, parameters)
	at := c.up(v, "n1")
	sums := []string{writeFile(t, filepath.Join(at, "file-0"), 8*mib, r)}
	volumes := []*volume{v}
	for i := 1; i <= links; i++ {
		v := c.create(fmt.Sprintf("gen-%d", i), 256*mib, fsVolume("ext4"), fromVolume(volumes[i-1].GetVolumeId()), parameters)
		at = c.up(v, "n1")
		volumes = append(volumes, v)
		sums = append(sums, writeFile(t, filepath.Join(at, fmt.Sprintf("file-%d", i)), 8*mib, r))
	}
	fio := startFio(t, at, 48*mib)
	for i := range volumes {
		eventually(t, 2*time.Minute, fmt.Sprintf("gen-%d is flattened", i), func(context.Context) error {
			info, err := c.info(c.stores[0], fmt.Sprintf("gen-%d", i))
			if err == nil && (info.Depth > soft || info.State == "flattening") {
				err = fmt.Errorf("depth %d, %s", info.Depth, info.State)
			}
			return err
		})
	}
	fio.verify(t)
	for i, v := range volumes {
		for j := 0; j <= i; j++ {
			if got := sumFile(t, filepath.Join(c.target(v, "n1"), fmt.Sprintf("file-%d", j))); got != sums[j] {
				t.Errorf("file-%d in gen-%d is %s; written was %s", j, i, got, sums[j])
			}
		}
		c.down(v, "n1")
	}
	for i, v := range volumes {
		c.fsck(c.stores[0], fmt.Sprintf("gen-%d", i), "ext4")
		c.remove(v)
	}
	c.log.clean(t)
	c.ended()
}
