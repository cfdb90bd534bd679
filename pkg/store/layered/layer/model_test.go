package layer

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// segments are the runs of blocks that random tests play with: at the start, over
// a page boundary, over a chunk boundary and far out.
func segments() [][2]int64 {
	return [][2]int64{{0, 40}, {ChunkBlocks - 8, ChunkBlocks + 8}, {pageBlocks - 20, pageBlocks + 20}, {5 * pageBlocks, 5*pageBlocks + 20}}
}

// blockModel is what is known of one block's content.
type blockModel struct {
	durable [8]uint64 // per sector, as of the last flush
	since   []uint64  // versions written after it, oldest first; 0 is a hole
}

// model follows one layer. states[i] is the map after i pieces of marks.
type model struct {
	blocks  []int64
	at      map[int64]int // block to index
	states  [][]State
	floor   int // pieces that are durable
	acked   int // pieces that were acknowledged
	content []blockModel
	dirty   bool // something may be unflushed
	version uint64
}

func newModel() *model {
	m := &model{at: map[int64]int{}}
	for _, s := range segments() {
		for b := s[0]; b < s[1]; b++ {
			m.at[b] = len(m.blocks)
			m.blocks = append(m.blocks, b)
		}
	}
	m.states = [][]State{make([]State, len(m.blocks))}
	m.content = make([]blockModel, len(m.blocks))
	return m
}

func (m *model) now() []State { return m.states[len(m.states)-1] }

// issue notes marks as begun, split as the layer splits them.
func (m *model) issue(runs []Run) {
	for _, r := range runs {
		for b := r.Block; b < r.Block+r.Count; {
			end := min(r.Block+r.Count, (b/pageBlocks+1)*pageBlocks)
			next := slices.Clone(m.now())
			for ; b < end; b++ {
				next[m.at[b]] = r.State
			}
			m.states = append(m.states, next)
		}
	}
}

// ended notes whether what was issued was acknowledged.
func (m *model) ended(err error) error {
	if err == nil {
		m.acked = len(m.states) - 1
	}
	return err
}

// flushed: everything acknowledged before is durable.
func (m *model) flushed() {
	m.floor = m.acked
	m.dirty = false
	for i := range m.content {
		c := &m.content[i]
		if n := len(c.since); n > 0 {
			for k := range c.durable {
				c.durable[k] = c.since[n-1]
			}
			c.since = nil
		}
	}
}

// run is a random run within one segment.
func (m *model) run(rng *rand.Rand) (block, n int64) {
	s := segments()[rng.IntN(len(segments()))]
	block = s[0] + rng.Int64N(s[1]-s[0])
	return block, min(1+rng.Int64N(6), s[1]-block)
}

// step does one random operation.
func (m *model) step(l *Layer, rng *rand.Rand) error {
	block, n := m.run(rng)
	switch k := rng.IntN(100); {
	case k < 45:
		return m.write(l, block, n)
	case k < 55:
		return m.zero(l, block, n, Zero)
	case k < 60:
		return m.zero(l, block, n, Absent)
	case k < 70:
		return m.batch(l, rng)
	case k < 85:
		err := l.Flush()
		if err == nil {
			m.flushed()
		}
		return err
	case k < 90:
		return l.Checkpoint()
	case k < 93:
		err := l.MarkClean()
		if err == nil {
			m.flushed()
		}
		m.dirty = false // it may have got as far as the flush
		return err
	case k < 95:
		return l.Rewrite(func(id *Identity) { id.Size++ })
	default:
		return m.compareChunk(l, block/ChunkBlocks)
	}
}

func (m *model) write(l *Layer, block, n int64) error {
	m.version++
	for b := block; b < block+n; b++ {
		c := &m.content[m.at[b]]
		c.since = append(c.since, m.version)
	}
	if err := l.WriteData(pattern(block, n, m.version), block*BlockSize); err != nil {
		return err
	}
	m.dirty = true
	m.issue([]Run{{block, n, Data}})
	return m.ended(l.Mark(block, n, Data))
}

func (m *model) zero(l *Layer, block, n int64, s State) error {
	m.issue([]Run{{block, n, s}})
	if err := m.ended(l.Mark(block, n, s)); err != nil {
		return err
	}
	m.dirty = true
	for b := block; b < block+n; b++ {
		c := &m.content[m.at[b]]
		c.since = append(c.since, 0)
	}
	err := l.Punch(block*BlockSize, n*BlockSize)
	return err
}

// batch marks several runs, among them overlapping ones, at once. Data is written
// before, as a caller must.
func (m *model) batch(l *Layer, rng *rand.Rand) error {
	var runs []Run
	for range 1 + rng.IntN(5) {
		block, n := m.run(rng)
		s := State(rng.IntN(3))
		if s == Data {
			m.version++
			for b := block; b < block+n; b++ {
				c := &m.content[m.at[b]]
				c.since = append(c.since, m.version)
			}
			if err := l.WriteData(pattern(block, n, m.version), block*BlockSize); err != nil {
				return err
			}
			m.dirty = true
		}
		runs = append(runs, Run{block, n, s})
	}
	m.issue(runs)
	err := m.ended(l.Marks(runs))
	m.dirty = m.dirty || err == nil
	return err
}

func (m *model) compareChunk(l *Layer, chunk int64) error {
	var c Chunk
	some, err := l.LoadChunk(chunk, &c)
	if err != nil {
		return err
	}
	if some == c.Empty() {
		return fmt.Errorf("chunk %d: any is %v, the chunk says %v", chunk, some, !c.Empty())
	}
	for i, b := range m.blocks {
		if b/ChunkBlocks == chunk && c.Get(int(b%ChunkBlocks)) != m.now()[i] {
			return fmt.Errorf("block %d is %v, want %v", b, c.Get(int(b%ChunkBlocks)), m.now()[i])
		}
	}
	return nil
}

// actual reads the states of all blocks of the model.
func (m *model) actual(t testing.TB, l *Layer) []State {
	t.Helper()
	out := make([]State, len(m.blocks))
	chunks := map[int64]*Chunk{}
	for i, b := range m.blocks {
		c := chunks[b/ChunkBlocks]
		if c == nil {
			c = new(Chunk)
			if _, err := l.LoadChunk(b/ChunkBlocks, c); err != nil {
				t.Fatal(err)
			}
			chunks[b/ChunkBlocks] = c
		}
		out[i] = c.Get(int(b % ChunkBlocks))
	}
	return out
}

// adopt checks a layer that was opened after a crash and goes on from what it
// shows: the map after some prefix of the marks. After a loss of power that is at
// least what was flushed, and what is there now is durable. After a crash of the
// process it is at least what was acknowledged, and no more durable than before.
func (m *model) adopt(t testing.TB, l *Layer, lostPower bool) {
	t.Helper()
	low := m.acked
	if lostPower {
		low = m.floor
	}
	got := m.actual(t, l)
	at := -1
	for i := low; i < len(m.states); i++ {
		if slices.Equal(m.states[i], got) {
			at = i
			break
		}
	}
	if at < 0 {
		t.Fatalf("the map is that of no prefix of %d to %d marks\n got  %v\n low  %v\n high %v", low, len(m.states)-1, got, m.states[low], m.now())
	}
	floor := m.states[m.floor]
	for i, b := range m.blocks {
		m.adoptBlock(t, l, b, got[i], floor[i] == Data, lostPower)
	}
	var data, zero int64
	for _, s := range got {
		switch s {
		case Data:
			data++
		case Zero:
			zero++
		}
	}
	if d, z := l.Blocks(); d != data || z != zero {
		t.Fatalf("layer counts %d data and %d zero blocks, map has %d and %d", d, z, data, zero)
	}
	m.states, m.acked = m.states[:at+1], at
	if lostPower {
		m.states, m.floor, m.acked, m.dirty = [][]State{got}, 0, 0, false
	}
}

// adoptBlock checks the sectors of one block: a block that became Data after the
// last flush may only show what was written since.
func (m *model) adoptBlock(t testing.TB, l *Layer, b int64, s State, wasData, lostPower bool) {
	t.Helper()
	c := &m.content[m.at[b]]
	got := versions(t, l, b)
	for k, v := range got {
		ok := slices.Contains(c.since, v) || (wasData || len(c.since) == 0) && v == c.durable[k]
		if s == Data && !ok {
			t.Fatalf("block %d sector %d holds version %d, durable %d, since then %v", b, k, v, c.durable[k], c.since)
		}
	}
	if lostPower {
		c.durable, c.since = got, nil
		return
	}
	for len(c.since) > 0 && c.since[len(c.since)-1] != got[0] {
		c.since = c.since[:len(c.since)-1] // was not written before the crash
	}
}
