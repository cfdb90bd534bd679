package meta

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
)

// TestLongViewHoldsNothingUp: the file grows many times over while a view is open,
// and new views begin.
func TestLongViewHoldsNothingUp(t *testing.T) {
	d := newDB(t)
	view(t, d, func(long *Tx) error {
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range 20 {
				if err := errors.Join(
					d.Update(func(tx *Tx) error { return tx.PutMark(fmt.Sprint(i), make([]byte, 300_000)) }),
					d.View(func(tx *Tx) error { _, err := tx.Mark(fmt.Sprint(i)); return err })); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Wait()
		got, err := long.Mark("0")
		if got != nil {
			t.Error("a view shows what was written after it began")
		}
		return err
	})
	wantMark(t, d, "19", make([]byte, 300_000))
}

// TestConcurrentTransactions: updates of several goroutines all take effect, and
// every view shows whole transactions.
func TestConcurrentTransactions(t *testing.T) {
	d := newDB(t)
	const writers, rounds = 4, 25
	var wg, readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := d.View(func(tx *Tx) error {
					images, snapshots, layers, err := tx.Counts()
					if snapshots != images || layers != 2*images {
						t.Errorf("a view shows %d images, %d snapshots, %d layers", images, snapshots, layers)
					}
					return err
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for w := range writers {
		wg.Go(func() {
			for i := range rounds {
				if err := d.Update(func(tx *Tx) error {
					first, err := tx.ReserveLayers(2)
					return errors.Join(err, family(tx, store.ID(fmt.Sprintf("%d-%d", w, i)), first))
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	readers.Wait()
	view(t, d, func(tx *Tx) error {
		images, _, _, err := tx.Counts()
		if images != writers*rounds {
			t.Errorf("%d images, want %d", images, writers*rounds)
		}
		return err
	})
}
