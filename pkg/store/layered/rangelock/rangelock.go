package rangelock

import (
	"math"
	"sync"
	"sync/atomic"
)

const (
	// shards is how many independent lists there are. Requests in different shards
	// do not share a mutex, and a request looks only at those of its own shards.
	shards = 16
	// regionBits: neighbouring regions of 256 KiB belong to different shards, so
	// that most requests need one shard and large ones spread over all.
	regionBits = 18
)

// Locks are the range locks of one object. The zero value is ready to use. All
// methods may be called concurrently.
type Locks struct {
	shard [shards]shard
}

// shard keeps the requests that touch its regions, in the order of arrival.
type shard struct {
	mu          sync.Mutex
	first, last *link
	free        *request // requests to use again, linked by nextFree
	_           [32]byte // a cache line for each
}

// request is a range held or waited for.
type request struct {
	off, end int64 // [off, end)
	shared   bool
	home     int    // the lowest shard it is in; it returns to the free list there
	from     int    // first shard it is in …
	count    int    // … and how many, going round
	use      uint64 // rises when the guard is given back, so that an old one is noticed
	blockers atomic.Int32
	granted  chan struct{} // made when it first has to wait, kept for later
	inline   link
	more     []link // for the shards after the first
	nextFree *request
}

// link is a request's place in one shard.
type link struct {
	req        *request
	prev, next *link
}

// Guard is a range that is held. The zero Guard holds nothing.
type Guard struct {
	locks *Locks
	req   *request
	use   uint64
}

// Lock holds n bytes from off exclusively. It returns when every conflicting
// request that arrived earlier has been unlocked. An empty range (n <= 0) conflicts
// with nothing; a range that exceeds the largest offset ends there.
func (l *Locks) Lock(off, n int64) Guard { return l.lock(off, n, false) }

// RLock is Lock, but shared.
func (l *Locks) RLock(off, n int64) Guard { return l.lock(off, n, true) }

func (l *Locks) lock(off, n int64, shared bool) Guard {
	if n <= 0 {
		return Guard{}
	}
	end := off + n
	if end < off {
		end = math.MaxInt64
	}
	from := int(off >> regionBits & (shards - 1))
	count := int(min((end-1)>>regionBits-off>>regionBits+1, shards))
	if count == 1 {
		return l.lockOne(off, end, shared, from)
	}
	return l.lockMany(off, end, shared, from, count)
}

// lockOne is for a request within one shard: one mutex, one place.
func (l *Locks) lockOne(off, end int64, shared bool, at int) Guard {
	s := &l.shard[at]
	s.mu.Lock()
	r := s.take()
	r.off, r.end, r.shared, r.home, r.from, r.count = off, end, shared, at, at, 1
	blockers := s.add(r, &r.inline)
	if blockers == 0 {
		use := r.use
		s.mu.Unlock()
		return Guard{locks: l, req: r, use: use}
	}
	return l.wait(r, blockers, s.mu.Unlock)
}

// lockMany arrives in all its shards at once: it holds their mutexes, taken in
// ascending order, until it has a place in each.
func (l *Locks) lockMany(off, end int64, shared bool, from, count int) Guard {
	home := from
	if from+count > shards {
		home = 0
	}
	in := func(i int) bool { return (i-from+shards)%shards < count }
	for i := range l.shard {
		if in(i) {
			l.shard[i].mu.Lock()
		}
	}
	unlock := func() {
		for i := range l.shard {
			if in(i) {
				l.shard[i].mu.Unlock()
			}
		}
	}
	r := l.shard[home].take()
	r.off, r.end, r.shared, r.home, r.from, r.count = off, end, shared, home, from, count
	if cap(r.more) < count-1 {
		r.more = make([]link, shards-1)
	}
	r.more = r.more[:count-1]
	blockers := l.shard[from].add(r, &r.inline)
	for i := range r.more {
		blockers += l.shard[(from+1+i)%shards].add(r, &r.more[i])
	}
	if blockers == 0 {
		use := r.use
		unlock()
		return Guard{locks: l, req: r, use: use}
	}
	return l.wait(r, blockers, unlock)
}

// wait returns when the last blocker is gone. A conflicting request counts once
// for each shard that both are in, and is taken off as often.
func (l *Locks) wait(r *request, blockers int32, unlock func()) Guard {
	r.blockers.Store(blockers) // nobody can lower it before the mutexes are free
	if r.granted == nil {
		r.granted = make(chan struct{}, 1)
	}
	use := r.use
	unlock()
	<-r.granted
	return Guard{locks: l, req: r, use: use}
}

// Unlock gives the range back. A second Unlock of a guard, or of a copy, panics.
func (g Guard) Unlock() {
	r := g.req
	if r == nil {
		return
	}
	l := g.locks
	// The guard's owner alone may change the request, so reading it without a mutex
	// is safe for an honest caller.
	from, count, home := r.from, r.count, &l.shard[r.home]
	if count == 1 {
		home.mu.Lock()
		home.checkUse(g)
		home.remove(r, &r.inline)
		home.give(r)
		home.mu.Unlock()
		return
	}
	home.mu.Lock()
	home.checkUse(g)
	home.mu.Unlock()
	for i := range count {
		s, place := &l.shard[(from+i)%shards], &r.inline
		if i > 0 {
			place = &r.more[i-1]
		}
		s.mu.Lock()
		s.remove(r, place)
		s.mu.Unlock()
	}
	home.mu.Lock()
	home.give(r)
	home.mu.Unlock()
}

func (s *shard) checkUse(g Guard) {
	if g.req.use != g.use {
		s.mu.Unlock()
		panic("rangelock: Unlock of a guard that is not held")
	}
	g.req.use++
}

// add puts r in the last place and counts the requests before it that conflict.
func (s *shard) add(r *request, at *link) (blockers int32) {
	for before := s.first; before != nil; before = before.next {
		if conflict(before.req, r) {
			blockers++
		}
	}
	at.req, at.prev, at.next = r, s.last, nil
	if s.last == nil {
		s.first = at
	} else {
		s.last.next = at
	}
	s.last = at
	return blockers
}

// remove takes r out and grants those behind it that waited for it alone.
func (s *shard) remove(r *request, at *link) {
	for behind := at.next; behind != nil; behind = behind.next {
		if conflict(r, behind.req) && behind.req.blockers.Add(-1) == 0 {
			behind.req.granted <- struct{}{} // has room: it is granted once
		}
	}
	if at.prev == nil {
		s.first = at.next
	} else {
		at.prev.next = at.next
	}
	if at.next == nil {
		s.last = at.prev
	} else {
		at.next.prev = at.prev
	}
	at.prev, at.next = nil, nil
}

func conflict(a, b *request) bool {
	return a.off < b.end && b.off < a.end && (!a.shared || !b.shared)
}

// take answers a request to fill in; give keeps it for the next take.
func (s *shard) take() *request {
	r := s.free
	if r == nil {
		return new(request)
	}
	s.free = r.nextFree
	r.nextFree = nil
	return r
}

func (s *shard) give(r *request) {
	r.nextFree = s.free
	s.free = r
}
