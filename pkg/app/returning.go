package app

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// returning knows which nodes had volumes of the store before it was started, and whether
// their connections are back. Who updates stores one after the other waits for that: the
// next one is not taken away while the volumes of the last one still pause.
type returning struct {
	pubs  store.Publisher
	until time.Time // after which nobody is waited for
	now   func() time.Time

	before map[right]bool // what was published at the start
	all    atomic.Bool    // came back, or time is over
}

// right is that of a node to an image in one of its epochs.
type right struct {
	id    store.ID
	node  string
	epoch uint64
}

func rightOf(p store.Publication) right { return right{p.ID, p.Node, p.Epoch} }

// newReturning looks at who is to come back within the timeout; 0 waits for nobody.
func newReturning(ctx context.Context, pubs store.Publisher, timeout time.Duration) (*returning, error) {
	r := &returning{pubs: pubs, now: time.Now, before: make(map[right]bool)}
	r.until = r.now().Add(timeout)
	if timeout <= 0 {
		r.all.Store(true)
		return r, nil
	}
	list, err := pubs.Publications(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("look for publications: %w", err)
	}
	for _, p := range list {
		r.before[rightOf(p)] = true
	}
	return r, nil
}

// ready is an error that names the nodes which are still waited for. A publication that
// is withdrawn meanwhile is waited for no longer.
func (r *returning) ready(ctx context.Context) error {
	if r.all.Load() {
		return nil
	}
	list, err := r.pubs.Publications(ctx, "")
	if err != nil {
		return err
	}
	away := make(map[string]bool)
	for _, p := range list {
		if r.before[rightOf(p)] && !p.Connected {
			away[p.Node] = true
		}
	}
	if len(away) == 0 || r.now().After(r.until) {
		r.all.Store(true)
		return nil
	}
	nodes := make([]string, 0, len(away))
	for n := range away {
		nodes = append(nodes, n)
	}
	slices.Sort(nodes)
	return fmt.Errorf("waiting for connections of %s to come back: %w", strings.Join(nodes, ", "), store.ErrUnavailable)
}
