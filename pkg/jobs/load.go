package jobs

import (
	"math"
	"sync/atomic"
	"time"
)

// Load gauges the foreground: how many operations are in flight and how long they
// take, with background work beside them and without. Devices feed it; background
// work reads it. All methods may be called concurrently; Begin and End cost a few
// nanoseconds, and one operation in sixteen two readings of the clock.
type Load struct {
	begun   atomic.Uint64
	ended   atomic.Uint64
	working atomic.Int64 // stretches of background work under way
	quiet   average      // seconds an operation, no background work beside it
	loaded  average      // the same with background work
}

// NewLoad returns a gauge that has seen nothing.
func NewLoad() *Load { return new(Load) }

// sampleMask picks the operations whose time is taken.
const sampleMask = 15

// Stamp is what Begin gives to End.
type Stamp struct {
	at    time.Time
	quiet bool
}

// Begin is called before a foreground operation.
func (l *Load) Begin() Stamp {
	if l.begun.Add(1)&sampleMask != 0 {
		return Stamp{}
	}
	return Stamp{at: time.Now(), quiet: l.working.Load() == 0}
}

// End is called after it, with what Begin returned.
func (l *Load) End(s Stamp) {
	l.ended.Add(1)
	if s.at.IsZero() {
		return
	}
	took := time.Since(s.at).Seconds()
	switch quiet := l.working.Load() == 0; {
	case quiet && s.quiet:
		l.quiet.add(took)
	case !quiet && !s.quiet:
		l.loaded.add(took)
	}
}

// InFlight is how many foreground operations have begun and not ended.
func (l *Load) InFlight() int64 {
	ended := l.ended.Load() // first, so that the difference is never negative
	return int64(l.begun.Load() - ended)
}

// Pressure is how much longer foreground operations take beside background work
// than without it: 1 means no longer, or not known.
func (l *Load) Pressure() float64 {
	quiet, loaded := l.quiet.value(), l.loaded.value()
	if quiet <= 0 || loaded <= quiet {
		return 1
	}
	return loaded / quiet
}

// pause is how long background work rests after it has worked that long. While the
// foreground does nothing there is no pause; otherwise it rests as long as it worked,
// and up to nine times that when the foreground suffers.
func (l *Load) pause(worked time.Duration, opsBefore uint64) time.Duration {
	if l.InFlight() == 0 && l.begun.Load() == opsBefore {
		return 0
	}
	share := min(1+4*(l.Pressure()-1), shareMost)
	return min(time.Duration(share*float64(worked)), pauseMost)
}

// average is a moving average with the weight of about the last 32 values. Two
// values added at the same instant may count as one.
type average struct{ bits atomic.Uint64 }

func (a *average) value() float64 { return math.Float64frombits(a.bits.Load()) }

func (a *average) add(v float64) {
	old := a.bits.Load()
	avg := math.Float64frombits(old)
	if old == 0 {
		avg = v
	}
	a.bits.CompareAndSwap(old, math.Float64bits(avg+(v-avg)/32))
}
