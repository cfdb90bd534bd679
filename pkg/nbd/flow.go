package nbd

import (
	"sync/atomic"
	"time"
)

// flow watches one direction of a connection while the server waits for the peer
// in the middle of a message. Its owner changes it, anybody may ask for the lag.
type flow struct {
	epoch time.Time
	// fair is the instant, in nanoseconds since the epoch, up to which the peer has
	// done its duty; 0 while nobody waits for it. What it moves pushes the instant
	// on at the pace of crawl, never into the future: a peer which was quick at
	// first gains nothing by it when it stalls, nor does one that drips bytes.
	fair atomic.Int64
}

// crawl is the pace, in bytes per second, below which a peer keeps others waiting.
const crawl = 256 << 10

func (f *flow) now() int64 { return int64(time.Since(f.epoch)) + 1 }

// wait says that the server waits for the peer from now on.
func (f *flow) wait() {
	if f.fair.Load() == 0 {
		f.fair.Store(f.now())
	}
}

// moved says that n more bytes went through.
func (f *flow) moved(n int) {
	if fair := f.fair.Load(); fair != 0 {
		f.fair.Store(min(fair+int64(n)*int64(time.Second)/crawl, f.now()))
	}
}

// rest says that the message is complete: the peer owes nothing.
func (f *flow) rest() {
	if f.fair.Load() != 0 {
		f.fair.Store(0)
	}
}

// lag is how far the peer is behind.
func (f *flow) lag() time.Duration {
	fair := f.fair.Load()
	if fair == 0 {
		return 0
	}
	return time.Duration(f.now() - fair)
}
