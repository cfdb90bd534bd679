package layer

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"slices"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

// FuzzJournal writes arbitrary bytes over the journal of a layer that has marks in
// both halves. Opening it must answer damage, or the map after some prefix of the
// marks, no shorter than the last checkpoint.
func FuzzJournal(f *testing.F) {
	f.Add([]byte{}, uint16(0), false)
	f.Add(make([]byte, 64), uint16(32), false)
	f.Add(make([]byte, 2*minHalf), uint16(0), true)
	f.Add([]byte{1}, uint16(minHalf+40), true)
	mem, env, m := journalToDamage(f)
	f.Fuzz(func(t *testing.T, junk []byte, off uint16, samePower bool) {
		if len(junk) > 2*minHalf {
			junk = junk[:2*minHalf]
		}
		at := int64(off) % (2 * minHalf)
		junk = junk[:min(int64(len(junk)), 2*minHalf-at)]
		disk := mem.PowerCut(nil)
		e := on(t, env, disk)
		if samePower {
			e.CacheID = env.CacheID
		}
		file, err := disk.OpenFile(e.MapPath(testID), os.O_RDWR, 0)
		must(t, err)
		defer file.Close()
		_, err = file.WriteAt(junk, 2*headerSize+at)
		must(t, err)
		l, _, err := Open(e, testID)
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Fatalf("open: %v, want ErrCorrupt or success", err)
			}
			return
		}
		defer l.Abandon()
		got := m.actual(t, l)
		if !slices.ContainsFunc(m.states, func(s []State) bool { return slices.Equal(s, got) }) {
			t.Fatalf("the map is that of no prefix of the marks: %v", got)
		}
		write(t, l, 0, 1, 99)
		must(t, l.Checkpoint())
	})
}

// journalToDamage is a disk with a layer whose checkpoint did not end: both
// generations are live.
func journalToDamage(f *testing.F) (*vfs.Mem, *Env, *model) {
	f.Helper()
	mem := vfs.NewMem()
	env := testEnv(f, mem, minHalf)
	l := mustCreate(f, env)
	write(f, l, 0, 1, 1)
	must(f, l.Checkpoint())
	m := newModel()
	m.issue([]Run{{0, 1, Data}})
	m.states = m.states[1:]
	for i := range int64(37) {
		if i == 20 {
			must(f, l.ensureHeader())
			l.thaw(l.freeze(), false)
		}
		run := []Run{{i, 1 + i%3, State(i % 3)}}
		m.issue(run)
		must(f, l.Marks(run))
		if i%7 == 0 {
			must(f, l.Flush())
		}
	}
	must(f, l.mapf.Sync())
	l.Abandon()
	return mem, env, m
}

// FuzzHeader gives every input a right checksum, so that the checks behind it are
// reached. What is accepted must survive being written again.
func FuzzHeader(f *testing.F) {
	h := header{seq: 5, gen: 3, firstSeq: 9, ckptSeq: 8, half: minHalf, cacheID: "c", clean: true, id: Identity{ID: 4, Image: "i", Poison: "p"}}
	raw, err := h.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, true)
	f.Add(make([]byte, headerSize), false)
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		b = append(b, make([]byte, headerSize)...)[:headerSize]
		if fix {
			copy(b, headerMagic)
			resum(b)
		}
		h, blank, err := decodeHeader(b)
		if err != nil || blank {
			return
		}
		raw, err := h.encode()
		if errors.Is(err, store.ErrInvalid) {
			return // lengths that decode but that this version never writes
		}
		must(t, err)
		again, _, err := decodeHeader(raw)
		must(t, err)
		if again.ckptSeq != h.ckptSeq || again.gen != h.gen || again.clean != h.clean || again.cacheID != h.cacheID || again.id.ID != h.id.ID {
			t.Fatalf("%+v became %+v", h, again)
		}
	})
}

// FuzzPage gives the slots right header checksums. A page that is accepted is one
// of the two slots, with a stamp within the checkpoint.
func FuzzPage(f *testing.F) {
	p := &page{no: 2, slot: -1}
	p.set(5, 100, Data)
	raw := make([]byte, 2*pageSlot)
	p.encode(raw, 1, 10)
	p.set(0, 3, Zero)
	p.encode(raw[pageSlot:], 1, 20)
	f.Add(raw, uint64(15), true)
	f.Add(raw, uint64(25), false)
	f.Fuzz(func(t *testing.T, b []byte, ckpt uint64, fix bool) {
		b = append(b, make([]byte, 2*pageSlot)...)[:2*pageSlot]
		for s := 0; fix && s < 2; s++ {
			slot := b[s*pageSlot:]
			binary.LittleEndian.PutUint32(slot, pageMagic)
			binary.LittleEndian.PutUint32(slot[4:], crc32.Checksum(slot[8:pageHeader], castagnoli()))
		}
		p, err := decodePage(b, 1, 2, ckpt)
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if p.slot >= 0 && binary.LittleEndian.Uint64(b[int(p.slot)*pageSlot+24:]) > ckpt {
			t.Fatalf("slot %d is beyond checkpoint %d", p.slot, ckpt)
		}
	})
}

// FuzzRecord gives every input a right checksum. A record that is accepted
// encodes to the same bytes and stays within its page.
func FuzzRecord(f *testing.F) {
	var b [recordSize]byte
	record{op: opSet, state: Data, gen: 1, count: 3, seq: 7, block: 5}.encode(b[:], 42)
	f.Add(b[:], uint32(42))
	f.Fuzz(func(t *testing.T, b []byte, prev uint32) {
		b = append(b, make([]byte, recordSize)...)[:recordSize]
		binary.LittleEndian.PutUint32(b, crc32.Update(prev, castagnoli(), b[4:]))
		r, sum, ok := decodeRecord(b, prev)
		if !ok {
			return
		}
		var again [recordSize]byte
		if r.encode(again[:], prev) != sum || !slices.Equal(again[:], b) {
			t.Fatalf("%x became %x", b, again)
		}
		if r.op == opSet && (r.block/pageBlocks != (r.block+uint64(r.count)-1)/pageBlocks || r.block >= maxBlocks) {
			t.Fatalf("record leaves its page: %+v", r)
		}
		if _, _, ok := decodeRecord(b, prev+1); ok {
			t.Fatal("record accepted in another chain")
		}
	})
}
