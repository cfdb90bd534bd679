package nbd

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// held is what one taker of TestBudgetModel got.
type held struct {
	of *tenant
	n  int64
}

// budgetModel drives a budget with takers who wait, give up and give back.
type budgetModel struct {
	t       *testing.T
	b       budget
	tenants [3]tenant
	got     chan held
	have    []held
	waiting []chan struct{} // closing one cancels a taker that may still wait
}

func (m *budgetModel) take(of *tenant, n int64) {
	cancel := make(chan struct{})
	m.waiting = append(m.waiting, cancel)
	go func() {
		if m.b.take(of, n, cancel, time.Hour, func(bool) {}) {
			m.got <- held{of, n}
		}
	}()
}

func (m *budgetModel) give(i int) {
	m.b.give(m.have[i].of, m.have[i].n)
	m.have = slices.Delete(m.have, i, i+1)
}

// settle waits until nothing moves and checks what must hold then.
func (m *budgetModel) settle() {
	m.t.Helper()
	synctest.Wait()
	for len(m.got) > 0 {
		m.have = append(m.have, <-m.got)
	}
	var used int64
	by := make(map[*tenant]int64)
	for _, h := range m.have {
		used += h.n
		by[h.of] += h.n
	}
	m.b.mu.Lock()
	defer m.b.mu.Unlock()
	if m.b.used != used || used > m.b.limit || m.b.peak > m.b.limit {
		m.t.Fatalf("used %d, peak %d of %d, but %d are held", m.b.used, m.b.peak, m.b.limit, used)
	}
	for _, h := range m.have {
		if by[h.of] != h.of.used || by[h.of] > m.b.most && by[h.of] != h.n {
			m.t.Fatalf("a tenant holds %d, booked are %d, allowed %d", by[h.of], h.of.used, m.b.most)
		}
	}
	first := make(map[*tenant]*waiter)
	for e := m.b.waiters.Front(); e != nil; e = e.Next() {
		if w := e.Value.(*waiter); first[w.of] == nil {
			first[w.of] = w
		}
	}
	least := m.b.limit
	for of, w := range first {
		if m.b.room(of, w.n) {
			least = min(least, of.used)
		}
	}
	fits := len(first) > 0
	for of, w := range first { // one of those who hold the least keeps back the others
		if m.b.room(of, w.n) && of.used == least && used+w.n > m.b.limit {
			fits = false
		}
	}
	if fits && least < m.b.limit { // least is the limit if nobody has room
		m.t.Fatalf("%d of %d are used, and somebody waits for what is free", used, m.b.limit)
	}
}

// The budget is never exceeded, in total or per tenant, and nobody waits for what
// is free.
func TestBudgetModel(t *testing.T) {
	rng := seed(t)
	synctest.Test(t, func(t *testing.T) {
		m := &budgetModel{t: t, b: budget{limit: 100, most: 60}, got: make(chan held, 1000)}
		for range 2000 {
			switch k := rng.IntN(10); {
			case k < 5:
				m.take(&m.tenants[rng.IntN(3)], 1+rng.Int64N(1+rng.Int64N(100)))
			case k < 9 && len(m.have) > 0:
				m.give(rng.IntN(len(m.have)))
			case len(m.waiting) > 0:
				i := rng.IntN(len(m.waiting))
				close(m.waiting[i])
				m.waiting = slices.Delete(m.waiting, i, i+1)
			}
			m.settle()
		}
		for len(m.have) > 0 {
			m.give(0)
			m.settle()
		}
		if m.b.used != 0 || m.b.waiters.Len() != 0 {
			t.Errorf("in the end %d bytes are used and %d wait", m.b.used, m.b.waiters.Len())
		}
	})
}

// What comes back goes to those who have the least, not to those who queued first.
func TestBudgetServesThePoorFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &budgetModel{t: t, b: budget{limit: 90, most: 60}, got: make(chan held, 10)}
		a, b, c := &m.tenants[0], &m.tenants[1], &m.tenants[2]
		for _, of := range []*tenant{a, a, b, b, b, c} {
			m.take(of, 30)
			m.settle()
		}
		m.give(slices.IndexFunc(m.have, func(h held) bool { return h.of == a }))
		m.settle()
		if a.used != 30 || b.used != 30 || c.used != 30 {
			t.Errorf("they hold %d, %d, %d", a.used, b.used, c.used)
		}
		for len(m.have) > 0 {
			m.give(0)
			m.settle()
		}
	})
}

// One tenant leaves room for others and does not hold them up.
func TestBudgetLeavesRoomForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &budgetModel{t: t, b: budget{limit: 90, most: 60}, got: make(chan held, 10)}
		a, b := &m.tenants[0], &m.tenants[1]
		for range 5 {
			m.take(a, 30)
			m.settle()
		}
		if a.used != 60 || m.b.waiters.Len() != 3 {
			t.Fatalf("the first has %d, %d wait", a.used, m.b.waiters.Len())
		}
		m.take(b, 30)
		m.settle()
		if b.used != 30 {
			t.Errorf("the second has %d", b.used)
		}
		for len(m.have) > 0 {
			m.give(0)
			m.settle()
		}
	})
}

// A peer is behind by the time it stalls or crawls, whatever it did before.
func TestFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := flow{epoch: time.Now()}
		check := func(what string, want time.Duration) {
			t.Helper()
			if got := f.lag(); got != want {
				t.Errorf("%s: behind by %v, want %v", what, got, want)
			}
		}
		after := func(d time.Duration) { <-time.After(d) }
		after(time.Hour)
		check("idle", 0)
		f.wait()
		after(2 * time.Second)
		check("stalled at once", 2*time.Second)
		f.moved(crawl)
		check("moved the work of a second", time.Second)
		f.moved(100 * crawl)
		check("moved far more", 0)
		f.wait()
		after(3 * time.Second)
		check("stalled after that", 3*time.Second)
		f.rest()
		after(time.Second)
		check("done", 0)
		f.wait()
		for range 1000 { // one byte per 10 ms
			after(10 * time.Millisecond)
			f.moved(1)
		}
		if got := f.lag(); got < 9*time.Second {
			t.Errorf("dripped for 10 s: behind by %v", got)
		}
		f.moved(100 * crawl)
		for range 1000 { // just quick enough
			after(10 * time.Millisecond)
			f.moved(crawl/100 + 1)
		}
		check("on pace", 0)
	})
}
