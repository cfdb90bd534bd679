package layer

import (
	"errors"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

// wellUsed is a closed layer with pages written twice.
func wellUsed(t *testing.T) (*vfs.Mem, *Env) {
	t.Helper()
	mem := vfs.NewMem()
	env := testEnv(t, mem, bigHalf)
	l := mustCreate(t, env)
	for round := range int64(3) {
		write(t, l, round*10, 4, 1)
		write(t, l, pageBlocks+round*10, 4, 1)
		must(t, l.Checkpoint())
	}
	must(t, l.Close())
	return mem, env
}

func TestDamageIsRefusedWithItsPlace(t *testing.T) {
	truncate := func(name string, size int64) func(t *testing.T, mem *vfs.Mem, env *Env) {
		return func(t *testing.T, mem *vfs.Mem, env *Env) {
			f, err := mem.OpenFile("/layers/0000000000000007."+name, 2, 0)
			must(t, err)
			defer f.Close()
			must(t, f.Truncate(size))
		}
	}
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, mem *vfs.Mem, env *Env)
		class  error
		says   string
	}{
		{"map file cut to nothing", truncate("map", 0), store.ErrCorrupt, "header"},
		{"map file cut in the journal", truncate("map", 9000), store.ErrCorrupt, "map file is cut off"},
		{"map file cut in the pages", truncate("map", pageOffset(bigHalf, 1)), store.ErrCorrupt, "map file is cut off"},
		{"data file cut", truncate("data", 3*BlockSize), store.ErrCorrupt, "data file is cut off"},
		{"data file missing", func(t *testing.T, mem *vfs.Mem, env *Env) { must(t, mem.Remove(env.DataPath(testID))) }, store.ErrCorrupt, "data file"},
		{"map file missing", func(t *testing.T, mem *vfs.Mem, env *Env) { must(t, mem.Remove(env.MapPath(testID))) }, store.ErrCorrupt, "map file"},
		{"both missing", func(t *testing.T, mem *vfs.Mem, env *Env) { must(t, Remove(env, testID)) }, store.ErrNotFound, ""},
		{"both headers", func(t *testing.T, mem *vfs.Mem, env *Env) {
			poke(t, mem, env.MapPath(testID), 100, flip)
			poke(t, mem, env.MapPath(testID), headerSize+100, flip)
		}, store.ErrCorrupt, "header slot 0: checksum"},
		{"another layer's map", func(t *testing.T, mem *vfs.Mem, env *Env) {
			l, err := Create(env, Identity{ID: 8})
			must(t, err)
			must(t, l.Close())
			must(t, mem.Rename(env.MapPath(8), env.MapPath(testID)))
		}, store.ErrCorrupt, "belongs to layer 0000000000000008"},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem, env := wellUsed(t)
			c.damage(t, mem, env)
			_, _, err := Open(env, testID)
			if !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("open: %v, want %v saying %q", err, c.class, c.says)
			}
			if n := mem.OpenCount(); n != 0 {
				t.Fatalf("%d files left open", n)
			}
		})
	}
}

func TestOtherFormatVersionIsUnsupported(t *testing.T) {
	h := header{seq: 1, gen: 1, firstSeq: 1, half: minHalf, id: Identity{ID: 1}}
	raw, err := h.encode()
	must(t, err)
	raw[12] = 9
	resum(raw)
	if _, _, err := decodeHeader(raw); !errors.Is(err, store.ErrUnsupported) {
		t.Fatalf("version 9: %v, want ErrUnsupported", err)
	}
}

// Of each page both slots were written; the newer one must not be passed over.
func TestDamagedNewerPageSlotIsRefused(t *testing.T) {
	for _, part := range []struct {
		name string
		off  int64
	}{{"slot header", 20}, {"states", pageHeader + 3}} {
		t.Run(part.name, func(t *testing.T) {
			mem, env := wellUsed(t)
			l, _ := mustOpen(t, env)
			p, err := l.readPage(0)
			must(t, err)
			l.Abandon()
			poke(t, mem, env.MapPath(testID), pageOffset(bigHalf, 0)+int64(p.slot)*pageSlot+part.off, flip)
			l, _ = mustOpen(t, env)
			var c Chunk
			if _, err := l.LoadChunk(0, &c); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "map page 0") {
				t.Fatalf("load: %v, want ErrCorrupt naming page 0", err)
			}
			if err := l.Mark(1, 1, Zero); !errors.Is(err, store.ErrCorrupt) {
				t.Fatalf("mark: %v, want ErrCorrupt", err)
			}
			if _, err := l.LoadChunk(pageBlocks/ChunkBlocks, &c); err != nil {
				t.Fatalf("another page: %v", err)
			}
			if found := l.Verify(false); len(found) == 0 || !errors.Is(found[0], store.ErrCorrupt) {
				t.Fatalf("verify found %v", found)
			}
		})
	}
}

func TestDamagedOlderPageSlotStatesAreHarmless(t *testing.T) {
	mem, env := wellUsed(t)
	l, _ := mustOpen(t, env)
	p, err := l.readPage(0)
	must(t, err)
	poke(t, mem, env.MapPath(testID), pageOffset(bigHalf, 0)+int64(p.otherSlot())*pageSlot+pageHeader, flip)
	wantState(t, l, 20, Data)
	wantSound(t, l)
}

// The older header is no substitute once the journal has gone on.
func TestDamagedNewestHeaderIsRefusedWhenJournalIsNewer(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, bigHalf)
	l := mustCreate(t, env)
	write(t, l, 1, 1, 1)
	must(t, l.Checkpoint())
	write(t, l, 2, 1, 1)
	must(t, l.Checkpoint())
	write(t, l, 3, 1, 1)
	slot := int64(l.hdrSlot)
	must(t, l.ensureHeader())
	must(t, l.Rewrite(func(id *Identity) { id.Size = 1 }))
	l.Abandon()
	poke(t, mem, env.MapPath(testID), (1-slot)*headerSize+90, flip)
	l, _ = mustOpen(t, env) // the other one is of the same checkpoint
	wantState(t, l, 3, Data)
	must(t, l.Checkpoint())
	slot = int64(l.hdrSlot)
	must(t, l.ensureHeader())
	l.freeze() // the next generation goes where the older header still wants one
	write(t, l, 4, 1, 1)
	l.Abandon()
	poke(t, mem, env.MapPath(testID), slot*headerSize+90, flip)
	if _, _, err := Open(env, testID); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "newest header is damaged") {
		t.Fatalf("open: %v, want ErrCorrupt about the header", err)
	}
}

func TestVerifyFindsWrongTotals(t *testing.T) {
	mem, env := wellUsed(t)
	l, _ := mustOpen(t, env)
	wantSound(t, l)
	f, err := mem.OpenFile(env.MapPath(testID), 2, 0)
	must(t, err)
	must(t, f.PunchHole(pageOffset(bigHalf, 1), 2*pageSlot-512)) // as a lost page reads
	must(t, f.Close())
	if found := l.Verify(false); len(found) == 0 || !strings.Contains(found[0].Error(), "header says") {
		t.Fatalf("verify found %v", found)
	}
}

func TestVerifyFindsDataBeyondTheDataFile(t *testing.T) {
	mem := vfs.NewMem()
	l := mustCreate(t, testEnv(t, mem, bigHalf))
	write(t, l, 1, 1, 1)
	must(t, l.Mark(50, 1, Data)) // never written
	if found := l.Verify(false); len(found) != 1 || !strings.Contains(found[0].Error(), "data file has") {
		t.Fatalf("verify found %v", found)
	}
}
