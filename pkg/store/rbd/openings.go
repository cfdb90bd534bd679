//go:build ceph

package rbd

import (
	"context"
	"fmt"
	"sync"

	"github.com/strata-csi/strata/pkg/store"
)

// openings are the images that are being opened and that the registry does not have yet.
// The zero value is ready.
type openings struct {
	mu   sync.Mutex
	list map[*opening]struct{}
}

type opening struct {
	image store.ID
	done  chan struct{}
}

// begin says that an image is being opened, until the function returned is called.
func (o *openings) begin(image store.ID) (end func()) {
	one := &opening{image: image, done: make(chan struct{})}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.list == nil {
		o.list = map[*opening]struct{}{}
	}
	o.list[one] = struct{}{}
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.list, one)
		close(one.done)
	}
}

// wait waits for those that are under way of the images that which picks, and for no
// others: the library may take long for one, or for ever.
func (o *openings) wait(ctx context.Context, which func(store.ID) bool) error {
	o.mu.Lock()
	var due []*opening
	for one := range o.list {
		if which(one.image) {
			due = append(due, one)
		}
	}
	o.mu.Unlock()
	for _, one := range due {
		select {
		case <-one.done:
		case <-ctx.Done():
			return fmt.Errorf("wait until image %s is open: %w", one.image, ctx.Err())
		}
	}
	return nil
}
