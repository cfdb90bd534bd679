//go:build kernelnbd

package scenario

import (
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// The design's target for a store that comes back, and what a loaded emulator may add.
const (
	resumeTarget = 10 * time.Second
	resumeBound  = 45 * time.Second
)

// A store that is killed costs its users time and nothing else: no error reaches the
// file system, nothing that was answered is lost.
func TestStoreIsKilled(t *testing.T) { storeIsKilled(single(t, "n1"), 20) }

func storeIsKilled(c *cluster, kills int) {
	t := c.t
	r := random(t)
	v := c.create("victim", 512*mib, fsVolume("ext4"), nil, nil)
	at := c.up(v, "n1")
	s := c.stores[0]
	fio := startFio(t, at, 32*mib)
	steady := startSteady(t, filepath.Join(at, "steady"), 8*mib, r)
	steady.advance(t, 50, time.Minute)
	t.Logf("largest gap before the first kill: %v", steady.largestGap().Round(time.Millisecond))

	var resumed, listening []time.Duration
	for range kills {
		pause(t, between(r, 200*time.Millisecond, 2*time.Second))
		steady.largestGap()
		killed := time.Now()
		s.kill()
		pause(t, between(r, 0, 500*time.Millisecond))
		s.start()
		s.serving()
		up := time.Now()
		steady.advance(t, 2, resumeBound) // the second began after the kill for certain
		resumed = append(resumed, time.Since(killed))
		listening = append(listening, time.Since(up))
	}
	report(t, "I/O goes on after the kill", resumed)
	report(t, "I/O goes on after the store listens", listening)
	steady.verify(t)
	fio.verify(t)
	c.log.clean(t)
	c.down(v, "n1")
	c.fsck(s, "victim", "ext4")
	c.remove(v)
	c.ended()
}

// report prints the distribution of times and says so when the target is missed.
func report(t *testing.T, what string, times []time.Duration) {
	t.Helper()
	slices.Sort(times)
	n := len(times)
	t.Logf("%s: median %v, worst %v of %d", what, times[n/2].Round(time.Millisecond), times[n-1].Round(time.Millisecond), n)
	if times[n-1] > resumeTarget {
		t.Logf("%s: the target is %v", what, resumeTarget)
	}
}

// Controller and node are not in the path of the data: whatever is killed of them, the
// writes go on as if nothing had happened, and what they are asked for afterwards works.
func TestControllerAndNodeAreKilled(t *testing.T) {
	const kills = 5
	r, c := random(t), single(t, "n1")
	v := c.create("victim", 512*mib, fsVolume("xfs"), nil, nil)
	at := c.up(v, "n1")
	fio := startFio(t, at, 32*mib)
	steady := startSteady(t, filepath.Join(at, "steady"), 8*mib, r)
	steady.advance(t, 50, time.Minute)
	connections := c.stores[0].connections()
	if connections == 0 {
		t.Fatal("the store counts no connection")
	}
	steady.largestGap()
	pause(t, 5*time.Second)
	idle := steady.largestGap()
	for range kills {
		for _, p := range []*server{c.controller, c.nodes["n1"]} {
			p.kill()
			pause(t, between(r, 100*time.Millisecond, time.Second))
			p.start()
			p.ready()
		}
	}
	gap := steady.largestGap()
	t.Logf("largest gap between two answers: %v while %d controllers and nodes were killed, %v in 5 s before",
		gap.Round(time.Millisecond), 2*kills, idle.Round(time.Millisecond))
	if n := c.stores[0].connections(); n != connections {
		t.Errorf("%d connections were made anew: I/O was interrupted", n-connections)
	}
	// The node knows its volume still: the store's death is its business as before.
	c.stores[0].kill()
	c.stores[0].start()
	c.stores[0].serving()
	steady.advance(t, 2, resumeBound)
	steady.verify(t)
	fio.verify(t)
	c.log.clean(t)
	c.down(v, "n1")
	c.fsck(c.stores[0], "victim", "xfs")
	c.remove(v)
	c.ended()
}
