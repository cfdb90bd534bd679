//go:build kernelnbd

package scenario

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// Two hundred volumes on one node, all with a writer: the store is started anew once,
// and every one of them goes on.
func TestTwoHundredVolumes(t *testing.T) {
	const count = 200
	r, c := random(t), single(t, "n1")
	s, n := c.stores[0], c.nodes["n1"]
	storeIdle, nodeIdle := s.memory(), n.memory()
	begin := time.Now()
	volumes, writers := make([]*volume, count), make([]*steady, count)
	inTurns(count, func(i int) {
		volumes[i] = c.create(fmt.Sprintf("many-%03d", i), 16*mib, rawVolume(), nil, nil)
	})
	made := time.Now()
	inTurns(count, func(i int) { c.up(volumes[i], "n1") })
	if t.Failed() {
		return
	}
	t.Logf("%d volumes made in %v, attached and published in %v; memory: store %d KiB each, node %d KiB each",
		count, made.Sub(begin).Round(time.Millisecond), time.Since(made).Round(time.Millisecond), (s.memory()-storeIdle)/count>>10, (n.memory()-nodeIdle)/count>>10)
	for i, v := range volumes {
		writers[i] = startPaced(t, c.target(v, "n1"), mib, 500*time.Millisecond, r)
	}
	for _, w := range writers {
		w.reach(t, 2, time.Minute)
	}
	s.kill()
	had := make([]int64, count)
	for i, w := range writers {
		had[i] = w.writes.Load()
	}
	killed, all, own := time.Now(), busy(t), n.cpu()
	s.start()
	s.serving()
	up := time.Now()
	for i, w := range writers {
		w.reach(t, had[i]+2, 2*time.Minute)
	}
	t.Logf("all %d go on %v after the kill, %v after the store listens; memory: store %d MiB, node %d MiB",
		count, time.Since(killed).Round(time.Millisecond), time.Since(up).Round(time.Millisecond), s.memory()>>20, n.memory()>>20)
	t.Logf("processor time from the kill on: %v in the store, %v in the node, %v in the whole guest", s.cpu(), n.cpu()-own, busy(t)-all)
	for _, w := range writers {
		w.verify(t)
	}
	begin = time.Now()
	inTurns(count, func(i int) { c.leave(volumes[i], "n1") })
	left := time.Now()
	inTurns(count, func(i int) {
		c.detach(volumes[i], "n1")
		c.remove(volumes[i])
	})
	t.Logf("taken from the node in %v, unpublished and deleted in %v",
		left.Sub(begin).Round(time.Millisecond), time.Since(left).Round(time.Millisecond))
	c.log.clean(t)
	c.ended()
}

// inTurns calls fn for each index, four at a time as sidecars and a kubelet do, and
// waits for the last.
func inTurns(count int, fn func(i int)) {
	var wait sync.WaitGroup
	turn := make(chan struct{}, 4)
	for i := range count {
		wait.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			fn(i)
		})
	}
	wait.Wait()
}
