package storeapi

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
)

// TestPublishedImageIsNotCutOff: an image that a node uses grows and never shrinks; nobody's
// does both.
func TestPublishedImageIsNotCutOff(t *testing.T) {
	ctx := t.Context()
	c, _ := serve(t, memstore.New())
	i, err := c.Create(ctx, store.Spec{Name: "img", Size: 2 * store.Block})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Publish(ctx, i.ID, "n1", store.AccessWrite); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resize(ctx, i.ID, 4*store.Block); err != nil {
		t.Errorf("grow: %v", err)
	}
	_, err = c.Resize(ctx, i.ID, 3*store.Block)
	if !errors.Is(err, store.ErrInUse) || !strings.Contains(err.Error(), `node "n1"`) {
		t.Errorf("shrink: %v", err)
	}
	if i, err = c.Resize(ctx, i.ID, 4*store.Block); err != nil || i.Size != 4*store.Block {
		t.Errorf("the same size again: %+v, %v", i, err)
	}
	if err := c.Unpublish(ctx, i.ID, ""); err != nil {
		t.Fatal(err)
	}
	if i, err = c.Resize(ctx, i.ID, store.Block); err != nil || i.Size != store.Block {
		t.Errorf("shrink what nobody uses: %+v, %v", i, err)
	}
}

// slowResize is a store whose resizes wait to be let go.
type slowResize struct {
	store.Full
	begun chan int64
	goOn  chan struct{}
}

func (s slowResize) Resize(ctx context.Context, id store.ID, size int64) (store.Info, error) {
	s.begun <- size
	<-s.goOn
	return s.Full.Resize(ctx, id, size)
}

// TestResizesOfOneImageHaveTurns: a growth that is late does not undo a larger one that it
// has overlapped with, and one image does not wait for another.
func TestResizesOfOneImageHaveTurns(t *testing.T) {
	ctx := t.Context()
	slow := slowResize{Full: memstore.New(), begun: make(chan int64), goOn: make(chan struct{})}
	c, _ := serve(t, slow)
	var ids []store.ID
	for _, name := range []string{"a", "b"} {
		i, err := c.Create(ctx, store.Spec{Name: name, Size: store.Block})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Publish(ctx, i.ID, "n1", store.AccessWrite); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, i.ID)
	}
	errs := make(chan error, 3)
	resize := func(id store.ID, blocks int64) {
		go func() {
			_, err := c.Resize(ctx, id, blocks*store.Block)
			errs <- err
		}()
	}
	resize(ids[0], 9)
	<-slow.begun
	resize(ids[0], 5) // has to see what the first one makes
	resize(ids[1], 2)
	if size := <-slow.begun; size != 2*store.Block {
		t.Errorf("%d bytes are resized to while the image has its size changed", size)
	}
	close(slow.goOn)
	refused := 0
	for range 3 {
		if err := <-errs; errors.Is(err, store.ErrInUse) {
			refused++
		} else if err != nil {
			t.Error(err)
		}
	}
	if i, err := c.Stat(ctx, ids[0]); err != nil || i.Size != 9*store.Block || refused != 1 {
		t.Errorf("%d bytes, %d refused, %v", i.Size, refused, err)
	}
	waiting, cancel := context.WithCancel(ctx)
	cancel()
	var order turns
	end, err := order.take(ctx, ids[0])
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	if _, err := order.take(waiting, ids[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("waits beyond its context: %v", err)
	}
}
