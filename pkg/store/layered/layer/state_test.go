package layer

import (
	"testing"
)

func TestChunkAgainstPlainStates(t *testing.T) {
	for _, seed := range seeds(t, 3) {
		rng := newRand(t, seed)
		var c Chunk
		var plain [ChunkBlocks]State
		for range 2000 {
			i := rng.IntN(ChunkBlocks)
			n := rng.IntN(min(ChunkBlocks-i, 1<<rng.IntN(11)) + 1)
			s := State(rng.IntN(3))
			if n == 1 {
				c.Set(i, s)
			} else {
				c.SetRange(i, n, s)
			}
			for j := i; j < i+n; j++ {
				plain[j] = s
			}
			checkChunk(t, &c, &plain, rng.IntN(ChunkBlocks), s)
		}
	}
}

func checkChunk(t *testing.T, c *Chunk, plain *[ChunkBlocks]State, i int, s State) {
	t.Helper()
	n := ChunkBlocks - i
	if i%2 == 0 {
		n = n/2 + 1
	}
	var data, zero, run int
	same, empty := true, true
	for j, got := range plain {
		if c.Get(j) != got {
			t.Fatalf("block %d is %v, want %v", j, c.Get(j), got)
		}
		empty = empty && got == Absent
		if j < i || j >= i+n {
			continue
		}
		same = same && got == s
		switch got {
		case Data:
			data++
		case Zero:
			zero++
		}
	}
	for run < ChunkBlocks-i && plain[i+run] == plain[i] {
		run++
	}
	if d, z := count(c[:], i, n); d != data || z != zero {
		t.Fatalf("counted %d data and %d zero in %d+%d, want %d and %d", d, z, i, n, data, zero)
	}
	if uniform(c[:], i, n, s) != same || c.Empty() != empty || invalid(c[:]) {
		t.Fatalf("uniform %v, empty %v, want %v, %v", uniform(c[:], i, n, s), c.Empty(), same, empty)
	}
	if s, got := c.Run(i); s != plain[i] || got != run {
		t.Fatalf("run at %d is %d of %v, want %d of %v", i, got, s, run, plain[i])
	}
}

func TestInvalidStateIsSeen(t *testing.T) {
	for _, i := range []int{0, 31, 32, ChunkBlocks - 1} {
		b := make([]byte, ChunkBlocks/4+3)
		b[i/4] = 3 << (i % 4 * 2)
		if !invalid(b) {
			t.Errorf("state 3 of block %d is not seen", i)
		}
	}
	b := make([]byte, 11)
	b[10] = 3
	if !invalid(b) {
		t.Error("state 3 in the odd bytes is not seen")
	}
}

func TestStateNames(t *testing.T) {
	for s, want := range map[State]string{Absent: "absent", Data: "data", Zero: "zero", 3: "invalid"} {
		if s.String() != want {
			t.Errorf("state %d is called %q", s, s)
		}
	}
}

func TestPageCacheKeepsItsBudget(t *testing.T) {
	c := NewPageCache(3 * pageCost)
	a, b := &Layer{}, &Layer{}
	for no := range int64(5) {
		c.put(a, &page{no: no})
		c.put(b, &page{no: no})
	}
	if c.Used() != 3*pageCost || c.get(a, 4) == nil || c.get(b, 3) == nil || c.get(b, 2) != nil {
		t.Fatalf("used %d", c.Used())
	}
	c.get(b, 3)
	c.put(a, &page{no: 9})
	if c.get(b, 3) == nil || c.get(a, 4) == nil && c.get(b, 4) == nil {
		t.Fatal("a page that was just used is gone")
	}
	c.forget(b)
	if c.get(b, 3) != nil || c.get(a, 9) == nil {
		t.Fatal("forget took the wrong pages")
	}
	c.forget(a)
	if c.Used() != 0 {
		t.Fatalf("used %d after all layers left", c.Used())
	}
	var none *PageCache
	none.put(a, &page{})
	if none.get(a, 0) != nil || none.Used() != 0 {
		t.Fatal("no cache keeps pages")
	}
}
