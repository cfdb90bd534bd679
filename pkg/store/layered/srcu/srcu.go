package srcu

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

// shardBits: with 32 counters a phase, sections on different cores rarely touch
// the same cache line.
const shardBits = 5

// Domain is a set of sections that can be waited for. The zero value is ready to
// use; a Domain must not be copied. All methods may be called concurrently.
type Domain struct {
	phase  atomic.Uint32 // where new sections count: 0 or 1
	drains atomic.Uint32 // the phase whose exits a round wants to hear of, plus 1; or 0
	_      [56]byte      // the words above are read often and written rarely

	shards [1 << shardBits]struct {
		sections [2]atomic.Int64 // running, by phase
		_        [48]byte
	}

	started atomic.Uint64 // rounds begun
	mu      sync.Mutex    // held for a round
	done    uint64        // rounds ended; guarded by mu
	wakeMu  sync.Mutex
	wake    *sync.Cond // made by the first round, with wakeMu
}

// Token says where a section is counted. It belongs to one Exit.
type Token uint32

// Enter begins a section. It never blocks.
func (d *Domain) Enter() Token {
	phase := d.phase.Load()
	shard := here()
	// A flip of the phase may come in between; the section then counts in the old
	// one, and rounds look at both.
	d.shards[shard].sections[phase].Add(1)
	return Token(shard<<1 | phase)
}

// Exit ends the section that t came from. It never blocks for long.
func (d *Domain) Exit(t Token) {
	if d.shards[t>>1].sections[t&1].Add(-1) == 0 && d.drains.Load() == uint32(t&1)+1 {
		d.notify()
	}
}

// Wait returns when every section that was entered before the call has exited. It
// must not be called inside a section.
func (d *Domain) Wait() { d.waitFor(d.next()) }

// next is the number of the first round that covers every section entered so far.
// A round that has begun may have passed by a counter before such a section was in
// it; any later one is good enough, whoever runs it.
func (d *Domain) next() uint64 { return d.started.Load() + 1 }

// waitFor returns when round number need is over. It runs it if nobody else does.
func (d *Domain) waitFor(need uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done >= need {
		return
	}
	d.started.Add(1)
	d.round()
	d.done++
}

// round sees every counter at zero once. That alone makes it correct: a section
// entered before is in one of them until it exits. The phases make it end: new
// sections go to the other phase while one is drained. The phase that is not
// current comes first, since sections that saw it before the last flip and counted
// after it may still be there, and the flip is about to send new ones in.
func (d *Domain) round() {
	d.wakeMu.Lock()
	defer d.wakeMu.Unlock()
	if d.wake == nil {
		d.wake = sync.NewCond(&d.wakeMu)
	}
	defer d.drains.Store(0)
	current := d.phase.Load()
	d.drain(1 - current)
	d.phase.Store(1 - current)
	d.drain(current)
}

// drain waits until each counter of a phase has been zero. The caller holds wakeMu.
func (d *Domain) drain(phase uint32) {
	d.drains.Store(phase + 1) // before the counters are read: an Exit that we miss sees it
	for i := range d.shards {
		for d.shards[i].sections[phase].Load() != 0 {
			d.wake.Wait()
		}
	}
}

// notify lets a round look again. With wakeMu it cannot come between the look and
// the sleep.
func (d *Domain) notify() {
	d.wakeMu.Lock()
	defer d.wakeMu.Unlock()
	if d.wake != nil {
		d.wake.Broadcast()
	}
}

// here picks a shard by the address of the goroutine's stack: the same one for the
// same goroutine at the same depth of calls, so its counter stays in the cache of
// the core it runs on. Any answer is correct.
func here() uint32 {
	var onStack byte
	at := uint64(uintptr(unsafe.Pointer(&onStack)))
	return uint32((at >> 9) * 0x9e3779b97f4a7c15 >> (64 - shardBits))
}
