package layered_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
)

// counters starts writers on an image; stop ends them.
func (r *rig) counters(id store.ID, count int) (list []*counter, stop func()) {
	r.Helper()
	done := make(chan struct{})
	var wg sync.WaitGroup
	for n := range count {
		dev, err := r.st.Open(r.ctx, id)
		r.must(err)
		c := &counter{dev: dev, first: int64(n) * counterBlocks}
		list = append(list, c)
		wg.Go(func() {
			if err := c.run(done); err != nil {
				r.Errorf("counter %d: %v", n, err)
			}
		})
	}
	return list, func() {
		close(done)
		wg.Wait()
		for _, c := range list {
			r.must(c.dev.Close())
		}
	}
}

// bounds is what a cut must hold of each counter: all that had ended before it was
// asked for, and nothing that began after it was answered.
type bounds struct{ least, most []uint64 }

func before(list []*counter) (b bounds) {
	for _, c := range list {
		b.least = append(b.least, c.ended.Load())
	}
	return b
}

func (b *bounds) after(list []*counter) {
	for _, c := range list {
		b.most = append(b.most, c.began.Load())
	}
}

func (b bounds) check(list []*counter, content []byte) error {
	for n, c := range list {
		at, err := c.cut(content[c.first*4096:])
		if err != nil {
			return fmt.Errorf("counter %d: %w", n, err)
		}
		if at < b.least[n] || at > b.most[n] {
			return fmt.Errorf("counter %d is at %d, want %d to %d", n, at, b.least[n], b.most[n])
		}
	}
	return nil
}

// A snapshot under heavy writes is a cut: of each writer it holds all up to one write.
func TestSnapshotUnderWritesIsACut(t *testing.T) {
	l := newLab(t, nil)
	const writers = 6
	i := l.create("image", writers*counterBlocks*4096)
	list, stop := l.counters(i.ID, writers)
	var cuts []bounds
	var snaps []store.Info
	for n := range 60 {
		b := before(list)
		snaps = append(snaps, l.snap(i.ID, fmt.Sprintf("s%d", n)))
		b.after(list)
		cuts = append(cuts, b)
		if n%3 == 2 { // merges run meanwhile
			l.remove(snaps[n-1].ID)
		}
	}
	stop()
	for n, s := range snaps {
		if n%3 == 1 {
			continue
		}
		if err := cuts[n].check(list, l.read(s.ID, 0, s.Size)); err != nil {
			t.Errorf("snapshot %d: %v", n, err)
		}
	}
	l.clean()
}

// A hundred clones at once of one live image under writes: each is a cut.
func TestHundredClonesOfALiveImage(t *testing.T) {
	l := newLab(t, nil)
	const writers = 4
	i := l.create("image", writers*counterBlocks*4096)
	list, stop := l.counters(i.ID, writers)
	clones := make([]store.Info, 100)
	cuts := make([]bounds, len(clones))
	var wg sync.WaitGroup
	for n := range clones {
		wg.Go(func() {
			b := before(list)
			c, err := l.st.Create(l.ctx, store.Spec{Name: fmt.Sprintf("clone%d", n), Parent: i.ID})
			if err != nil {
				t.Errorf("clone %d: %v", n, err)
			}
			b.after(list)
			clones[n], cuts[n] = c, b
		})
	}
	wg.Wait()
	stop()
	for n, c := range clones {
		if c.ID == "" {
			continue
		}
		if c.Depth != 1 {
			t.Errorf("clone %d is at depth %d", n, c.Depth)
		}
		if err := cuts[n].check(list, l.read(c.ID, 0, c.Size)); err != nil {
			t.Errorf("clone %d: %v", n, err)
		}
	}
	l.clean()
}

// A hundred clones at once of one snapshot succeed together, and are independent.
func TestHundredClonesOfASnapshot(t *testing.T) {
	l := newLab(t, nil)
	i := l.create("image", mib)
	l.write(i.ID, 0, mib, 1)
	s := l.snap(i.ID, "s")
	clones := make([]store.Info, 100)
	var wg sync.WaitGroup
	for n := range clones {
		wg.Go(func() {
			c, err := l.st.Create(l.ctx, store.Spec{Name: fmt.Sprintf("clone%d", n), Parent: s.ID})
			if err != nil {
				t.Errorf("clone %d: %v", n, err)
				return
			}
			clones[n] = c
			dev, err := l.st.Open(l.ctx, c.ID)
			if err == nil {
				_, err = dev.WriteAt(pattern(4096, uint64(n+10)), int64(n)*4096)
				err = errors.Join(err, dev.Close())
			}
			if err != nil {
				t.Errorf("clone %d: %v", n, err)
			}
		})
	}
	wg.Wait()
	for n, c := range clones {
		want := pattern(mib, 1)
		copy(want[n*4096:], pattern(4096, uint64(n+10)))
		l.want(c.ID, c.Name, want)
	}
	l.want(i.ID, "the parent", pattern(mib, 1))
	l.clean()
}

// closedOr requires that a request on a closing store succeeds or says that it is
// closed.
func closedOr(err error) error {
	if err == nil || errors.Is(err, store.ErrClosed) {
		return nil
	}
	return err
}

// Closing a store under devices in use ends their requests with ErrClosed, shows
// nobody wrong bytes, and loses nothing that was answered.
func TestCloseWithOpenDevices(t *testing.T) {
	for round := range 15 {
		l := newLab(t, nil)
		const writers = 3
		i := l.create("image", writers*counterBlocks*4096)
		full := l.create("full", mib)
		l.write(full.ID, 0, mib, 1)
		l.snap(full.ID, "s")
		var list []*counter
		var wg sync.WaitGroup
		for n := range writers {
			dev, err := l.st.Open(l.ctx, i.ID)
			l.must(err)
			c := &counter{dev: dev, first: int64(n) * counterBlocks}
			list = append(list, c)
			wg.Go(func() {
				if err := closedOr(c.run(nil)); err != nil {
					t.Errorf("round %d: write: %v", round, err)
				}
			})
		}
		l.useWhileClosing(&wg, i.ID, full.ID)
		for list[0].ended.Load() < 20 || list[2].ended.Load() < 20 {
			l.status() // lets the others run
		}
		b := bounds{least: make([]uint64, writers)}
		l.stop()
		wg.Wait()
		if n := l.mem.OpenCount(); n != 0 {
			t.Errorf("round %d: %d files are open after the store was closed", round, n)
		}
		for n, c := range list {
			b.least[n] = c.ended.Load()
			l.must(c.dev.Close())
		}
		b.after(list)
		l.start()
		if err := b.check(list, l.read(i.ID, 0, i.Size)); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		l.clean()
	}
}

// useWhileClosing reads, opens, snapshots and clones until the store is closed.
func (l *lab) useWhileClosing(wg *sync.WaitGroup, busy, full store.ID) {
	l.Helper()
	st, want := l.st, pattern(mib, 1)
	dev, err := st.Open(l.ctx, full)
	l.must(err)
	until := func(what string, fn func(n int) error) {
		wg.Go(func() {
			for n := 0; ; n++ {
				err := fn(n)
				if errors.Is(err, store.ErrClosed) {
					return
				}
				if err != nil {
					l.Errorf("%s: %v", what, err)
					return
				}
			}
		})
	}
	until("read", func(int) error {
		got := make([]byte, 65536)
		if _, err := dev.ReadAt(got, 4096); err != nil {
			return err
		}
		if string(got) != string(want[4096:4096+65536]) {
			return errors.New("a read returned other bytes than were written")
		}
		return nil
	})
	until("open", func(int) error {
		d, err := st.Open(context.Background(), full)
		if err != nil {
			return err
		}
		return d.Close()
	})
	until("snapshot", func(n int) error {
		_, err := st.Snapshot(context.Background(), busy, fmt.Sprintf("s%d", n))
		return err
	})
	until("clone", func(n int) error {
		_, err := st.Create(context.Background(), store.Spec{Name: fmt.Sprintf("c%d", n), Parent: full})
		return err
	})
	until("check", func(int) error {
		_, err := st.Check(context.Background(), false)
		return err
	})
}
