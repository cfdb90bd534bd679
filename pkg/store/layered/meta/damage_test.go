package meta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0 takes STRATA_SEED or the time")

func newRand(t testing.TB) *rand.Rand {
	s := *seedFlag
	if s == 0 {
		s, _ = strconv.ParseUint(os.Getenv("STRATA_SEED"), 10, 64)
	}
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: replay with STRATA_SEED=%d", s, s)
	return rand.New(rand.NewPCG(s, 3))
}

// sample is a catalogue with branches, overflow pages and free pages, and the dump of
// its last two states.
func sample(t testing.TB) (file []byte, dumps []string) {
	t.Helper()
	path := newFile(t)
	d, err := Open(path, Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	update(t, d, func(tx *Tx) error {
		if _, err := tx.ReserveLayers(2000); err != nil {
			return err
		}
		for i := range 70 {
			if err := family(tx, store.ID(fmt.Sprintf("image-%03d", i)), LayerID(1+2*i)); err != nil {
				return err
			}
		}
		return tx.PutMark("big", bytes.Repeat([]byte("x"), 10000))
	})
	update(t, d, func(tx *Tx) error {
		_, err := tx.PutIntent(Intent{Kind: "merge", Layer: 1})
		return errors.Join(err, tx.PutJob("j", []byte("row")), tx.PutPublication(Publication{store.Publication{ID: "image-001", Node: "n"}}))
	})
	dumps = append(dumps, dump(t, d))
	update(t, d, func(tx *Tx) error { return tx.PutMark("last", []byte("commit")) })
	dumps = append(dumps, dump(t, d))
	file, err = os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return file, dumps
}

// dump reads everything through the rows, in order.
func dump(t testing.TB, d *DB) string {
	t.Helper()
	var b strings.Builder
	if err := d.View(func(tx *Tx) error { return dumpInto(&b, tx) }); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func dumpInto(b *strings.Builder, tx *Tx) error {
	if err := tx.WalkImages(func(img Image) error {
		fmt.Fprintf(b, "%+v\n", img)
		byName, err := tx.ImageByName(img.Name)
		if !img.Removed {
			fmt.Fprintf(b, "%+v %v\n", byName, err)
		}
		path, err := tx.Ancestry(img.ID)
		if err != nil {
			return err
		}
		snaps, err := tx.SnapshotsOf(img.ID)
		if err != nil {
			return err
		}
		layers, err := tx.LayersOf(img.ID)
		if err != nil {
			return err
		}
		fmt.Fprintf(b, "%v %+v\n", path, snaps)
		for _, id := range layers {
			l, err := tx.Layer(id)
			if err != nil {
				return err
			}
			kids, err := tx.Children(id)
			if err != nil {
				return err
			}
			on, err := tx.SnapshotsOn(id)
			if err != nil {
				return err
			}
			fmt.Fprintf(b, "%+v %v %v\n", l, kids, on)
		}
		return nil
	}); err != nil {
		return err
	}
	intents, e1 := tx.Intents()
	pubs, e2 := tx.Publications("")
	jobs, e3 := tx.Jobs()
	big, e4 := tx.Mark("big")
	last, e5 := tx.Mark("last")
	from, to, e6 := tx.Reserved()
	i, s, l, e7 := tx.Counts()
	fmt.Fprintf(b, "%v %v %v %s %s %d %d %d %d %d\n", intents, pubs, jobs, big, last, from, to, i, s, l)
	return errors.Join(e1, e2, e3, e4, e5, e6, e7)
}

// survive opens a damaged file and uses all of it. It tells whether the damage was
// noticed: by Open, by reading, or by Verify.
func survive(t *testing.T, file []byte, dumps []string, what string) (noticed bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "damaged.db")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Open(path, Options{NoSync: true})
	if err != nil {
		if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrUnsupported) || !strings.Contains(err.Error(), path) {
			t.Fatalf("%s: open: %v", what, err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil { // the lock is free again
			t.Fatal(err)
		}
		return true
	}
	defer d.Close()
	var b strings.Builder
	var problems []store.Problem
	readErr := d.View(func(tx *Tx) error {
		problems = tx.Verify()
		return dumpInto(&b, tx)
	})
	writeErr := d.Update(func(tx *Tx) error {
		_, err := tx.ReserveLayers(1)
		return errors.Join(err, family(tx, "fresh", 1990), tx.PutMark("big", nil), tx.PutMark("more", []byte("x")))
	})
	for _, err := range []error{readErr, writeErr} {
		if err != nil && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrConflict) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	if readErr != nil || len(problems) > 0 {
		return true
	}
	for _, want := range dumps {
		if b.String() == want {
			return false
		}
	}
	t.Errorf("%s: content differs and nothing noticed it:\n%s", what, firstDifference(b.String(), dumps[len(dumps)-1]))
	return false
}

func firstDifference(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("got  %.300s\nwant %.300s", a[i], b[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(a), len(b))
}

func TestDamagedFiles(t *testing.T) {
	rng := newRand(t)
	file, dumps := sample(t)
	if survive(t, file, dumps, "undamaged") {
		t.Fatal("the undamaged file is refused")
	}
	pages := len(file) / 4096
	tally := map[bool]int{}
	for i := range 300 {
		bad := bytes.Clone(file)
		page := rng.IntN(pages)
		p := bad[page*4096 : page*4096+4096]
		at := rng.IntN(4096)
		if i%3 == 0 {
			at = rng.IntN(64) // headers and elements
		}
		what := ""
		switch rng.IntN(5) {
		case 0:
			p[at] ^= 1 << rng.IntN(8)
			what = "bit"
		case 1:
			p[at] = byte(rng.IntN(256))
			what = "byte"
		case 2:
			clear(p[at:])
			what = "zeros from"
		case 3:
			copy(p, bad[rng.IntN(pages)*4096:][:4096])
			what = "another page over"
		case 4:
			for j := range min(64, 4096-at) {
				p[at+j] = byte(rng.Uint32())
			}
			what = "noise at"
		}
		tally[survive(t, bad, dumps, fmt.Sprintf("%s page %d offset %d", what, page, at))]++
		if t.Failed() {
			return
		}
	}
	t.Logf("noticed %d, harmless %d", tally[true], tally[false])
}

// TestWrongBranchKeyIsNoticed: all rows are whole, but a lookup would go astray.
func TestWrongBranchKeyIsNoticed(t *testing.T) {
	file, dumps := sample(t)
	noticed := 0
	for at := 2 * 4096; at < len(file); at += 4096 {
		if b := file[at:]; pageFlags(b) != flagBranch || pageCount(b) < 2 {
			continue
		}
		bad := bytes.Clone(file)
		key, err := part(bad[at:at+4096], 1, uint64(binary.NativeEndian.Uint32(bad[at+32:])), uint64(binary.NativeEndian.Uint32(bad[at+36:])))
		if err != nil {
			t.Fatal(err)
		}
		for i := range key {
			key[i] = 0xff
		}
		if survive(t, bad, dumps, fmt.Sprintf("branch key of page %d", at/4096)) {
			noticed++
		}
	}
	if noticed == 0 {
		t.Error("no wrong key was noticed")
	}
}

func TestTruncatedFiles(t *testing.T) {
	file, dumps := sample(t)
	for n := 0; n < len(file); n += 1 + len(file)/97 {
		survive(t, file[:n], dumps, fmt.Sprintf("cut at %d", n))
	}
	h, ok, err := newestHeader(bytes.NewReader(file), int64(len(file)))
	if !ok || err != nil {
		t.Fatal(err)
	}
	used := int(h.high * h.pageSize) // what lies behind is room to grow
	for _, n := range []int{0, 1, used / 2, used - 1} {
		if !survive(t, file[:n], dumps, fmt.Sprintf("cut at %d of %d", n, used)) {
			t.Errorf("the cut at %d of %d was not noticed", n, used)
		}
	}
}

// TestTruncatedWhileOpen: the file shrinks under the mapping; reads answer an error
// instead of ending the process.
func TestTruncatedWhileOpen(t *testing.T) {
	file, _ := sample(t)
	path := filepath.Join(t.TempDir(), "c.db")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Open(path, Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := os.Truncate(path, 8192); err != nil {
		t.Fatal(err)
	}
	err = d.View(func(tx *Tx) error { return dumpInto(new(strings.Builder), tx) })
	wantErr(t, err, store.ErrCorrupt)
	err = d.Update(func(tx *Tx) error { return tx.PutMark("a", []byte("x")) })
	wantErr(t, err, store.ErrCorrupt)
}

func TestStrangerFiles(t *testing.T) {
	for name, content := range map[string][]byte{
		"text":  bytes.Repeat([]byte("not a catalogue\n"), 4096),
		"zeros": make([]byte, 1<<20),
		"short": []byte("x"),
	} {
		t.Run(name, func(t *testing.T) {
			if !survive(t, content, nil, name) {
				t.Error("it was accepted")
			}
		})
	}
}

func FuzzOpen(f *testing.F) {
	file, _ := sample(f)
	pages := len(file) / 4096
	f.Add(uint16(3), uint16(0), []byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, page, at uint16, noise []byte) {
		bad := bytes.Clone(file)
		copy(bad[int(page)%pages*4096+int(at)%4096:], noise)
		path := filepath.Join(t.TempDir(), "f.db")
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := Open(path, Options{NoSync: true})
		if err != nil {
			return
		}
		defer d.Close()
		_ = d.View(func(tx *Tx) error { tx.Verify(); return nil })
		_ = d.Update(func(tx *Tx) error { return errors.Join(family(tx, "fresh", 1990), tx.PutMark("big", nil)) })
	})
}
