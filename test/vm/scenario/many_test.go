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
	var wait sync.WaitGroup
	turn := make(chan struct{}, 4)
	for i := range count {
		wait.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			volumes[i] = c.create(fmt.Sprintf("many-%03d", i), 16*mib, rawVolume(), nil, nil)
			c.up(volumes[i], "n1")
		})
	}
	wait.Wait()
	if t.Failed() {
		return
	}
	t.Logf("%d volumes made, attached and published in %v; memory: store %d KiB each, node %d KiB each",
		count, time.Since(begin).Round(time.Millisecond), (s.memory()-storeIdle)/count>>10, (n.memory()-nodeIdle)/count>>10)
	for i, v := range volumes {
		writers[i] = startPaced(t, c.target(v, "n1"), mib, 500*time.Millisecond, r)
	}
	for _, w := range writers {
		w.advance(t, 2, time.Minute)
	}
	s.kill()
	killed := time.Now()
	s.start()
	s.serving()
	up := time.Now()
	for _, w := range writers {
		w.advance(t, 2, 2*time.Minute)
	}
	t.Logf("all %d go on %v after the kill, %v after the store listens; memory: store %d MiB, node %d MiB",
		count, time.Since(killed).Round(time.Millisecond), time.Since(up).Round(time.Millisecond), s.memory()>>20, n.memory()>>20)
	for _, w := range writers {
		w.verify(t)
	}
	for _, v := range volumes {
		c.down(v, "n1")
		c.remove(v)
	}
	c.log.clean(t)
	c.ended()
}
