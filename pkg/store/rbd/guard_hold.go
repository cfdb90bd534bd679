//go:build ceph

package rbd

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

const (
	// holdPrefix begins the notes by which gateways tell each other which publications
	// they have connections of: hold/<target>/<epoch>/<gateway>.
	holdPrefix = "hold/"
	// cutWithin is how long a gateway may take to end the connections of a publication
	// that was withdrawn, in time; then it is fenced, and is a new client afterwards.
	cutWithin = 10 * time.Second
	// askEvery is how often one looks whether it has.
	askEvery = 100 * time.Millisecond
)

// holdID names a publication.
type holdID struct {
	target store.ID
	epoch  uint64
}

func (id holdID) key(member string) string {
	sum := sha256.Sum256([]byte(member))
	return fmt.Sprintf("%s%s/%d/%x", holdPrefix, id.target, id.epoch, sum[:8])
}

// holdNote is what the note says: whose it is, in which of its lives.
type holdNote struct {
	Member    string `json:"member"`
	Addresses string `json:"addresses"`
}

// hold is a publication of which this gateway has connections.
type hold struct {
	refs      int
	withdrawn chan struct{}
	told      bool // withdrawn is closed
}

// holdSet is those of a gateway. Safe for concurrent use.
type holdSet struct {
	mu   sync.Mutex
	byID map[holdID]*hold
	wake chan struct{} // that there is something to drop
}

// take adds a connection; it tells whether it is the first.
func (hs *holdSet) take(id holdID) (h *hold, first bool) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if h = hs.byID[id]; h == nil {
		h = &hold{withdrawn: make(chan struct{})}
		hs.byID[id] = h
	}
	h.refs++
	return h, h.refs == 1
}

// give takes a connection off again.
func (hs *holdSet) give(id holdID) {
	hs.mu.Lock()
	hs.byID[id].refs--
	hs.mu.Unlock()
	select {
	case hs.wake <- struct{}{}:
	default:
	}
}

// list returns those that have connections, or those that have none any more.
func (hs *holdSet) list(used bool) (ids []holdID) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for id, h := range hs.byID {
		if (h.refs > 0) == used {
			ids = append(ids, id)
		}
	}
	return ids
}

// Hold implements export.Holder.
func (g *Guarded) Hold(ctx context.Context, target store.ID, epoch uint64) (<-chan struct{}, func(), error) {
	id := holdID{target, epoch}
	unlock, err := g.keys.lock(ctx, holdPrefix+string(target))
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	h, first := g.holds.take(id)
	if first {
		err = g.swap(ctx, id, &holdNote{g.o.Member, g.c.addresses})
	}
	if err == nil {
		err = g.expel(ctx, target)
	}
	if err != nil {
		g.holds.give(id)
		return nil, nil, fmt.Errorf("go on record for %s: %w", target, g.seen(err))
	}
	return h.withdrawn, sync.OnceFunc(func() { g.holds.give(id) }), nil
}

// swap replaces this gateway's note about a publication; nil takes it away.
func (g *Guarded) swap(ctx context.Context, id holdID, note *holdNote) error {
	value := ""
	if note != nil {
		raw, err := json.Marshal(note)
		if err != nil {
			return fmt.Errorf("note: %w", err)
		}
		value = string(raw)
	}
	for {
		old, err := g.Note(ctx, id.key(g.o.Member))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if old == value {
			return nil
		}
		if err := g.SwapNote(ctx, id.key(g.o.Member), old, value); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// Unpublish withdraws the right of node, or of all if node is "", and returns when other
// gateways have ended the connections that rested on it. One that does not answer is
// fenced.
func (g *Guarded) Unpublish(ctx context.Context, id store.ID, node string) error {
	targets := []store.ID{id} // also when it is repeated
	pubs, err := g.Publications(ctx, id)
	if err != nil {
		return fmt.Errorf("unpublish %q: %w", id, err)
	}
	for _, p := range pubs {
		if (node == "" || p.Node == node) && !slices.Contains(targets, p.Target) {
			targets = append(targets, p.Target)
		}
	}
	if err := g.Store.Unpublish(ctx, id, node); err != nil {
		return err
	}
	for _, target := range targets {
		if err := g.expel(ctx, target); err != nil {
			return fmt.Errorf("unpublish %q: %w", id, err)
		}
	}
	return nil
}

// stale is a note about a publication that is none any more.
type stale struct {
	key, value string
	holdNote
	dead bool // that life of the gateway is over, and nothing of it takes effect
}

// expel returns when no other gateway has connections of publications of target that
// were withdrawn.
func (g *Guarded) expel(ctx context.Context, target store.ID) error {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for begin := time.Now(); ; {
		left, err := g.stale(ctx, target)
		if err != nil || len(left) == 0 {
			return err
		}
		for _, s := range left {
			if !s.dead && time.Since(begin) < cutWithin {
				continue
			}
			if !s.dead {
				if err := g.c.fence(s.Addresses); err != nil {
					return fmt.Errorf("gateway %s does not end its connections: %w", s.Member, err)
				}
			}
			// A conflict means that somebody else was faster.
			if err := g.SwapNote(ctx, s.key, s.value, ""); err != nil && !errors.Is(err, store.ErrConflict) {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for gateway %s to end its connections: %w", left[0].Member, ctx.Err())
		}
	}
}

// stale lists the notes of other gateways, and of former lives of this one, about
// publications of target that were withdrawn.
func (g *Guarded) stale(ctx context.Context, target store.ID) (list []stale, err error) {
	prefix := holdPrefix + string(target) + "/"
	err = g.view(ctx, func(st *meta.State) error {
		valid := inForce(st)
		for key, value := range st.Notes {
			rest, ok := strings.CutPrefix(key, prefix)
			if !ok {
				continue
			}
			s := stale{key: key, value: value}
			number, _, _ := strings.Cut(rest, "/")
			epoch, err := strconv.ParseUint(number, 10, 64)
			if err != nil || json.Unmarshal([]byte(value), &s.holdNote) != nil {
				s.dead = true // nobody of ours has written that
			} else if s.Addresses == g.c.addresses || valid[holdID{target, epoch}] {
				continue
			} else if m := st.Members[s.Member]; m.Addresses != s.Addresses || m.Clean {
				s.dead = true
			}
			list = append(list, s)
		}
		return nil
	})
	return list, err
}

// inForce are the publications that there are.
func inForce(st *meta.State) map[holdID]bool {
	all := make(map[holdID]bool, len(st.Pubs))
	for _, p := range st.Pubs {
		all[holdID{p.Target, p.Epoch}] = true
	}
	return all
}

// tell closes what says that a publication was withdrawn, and drops the notes about those
// that have no connections any more. What fails is tried again at the next look.
func (g *Guarded) tell(ctx context.Context) error {
	err := g.view(ctx, func(st *meta.State) error {
		valid := inForce(st)
		g.holds.mu.Lock()
		defer g.holds.mu.Unlock()
		for id, h := range g.holds.byID {
			if !h.told && !valid[id] {
				h.told = true
				close(h.withdrawn)
			}
		}
		return nil
	})
	for _, id := range g.holds.list(false) {
		err = errors.Join(err, g.forget(ctx, id))
	}
	return err
}

// forget drops the note about a publication without connections.
func (g *Guarded) forget(ctx context.Context, id holdID) error {
	unlock, err := g.keys.lock(ctx, holdPrefix+string(id.target))
	if err != nil {
		return err
	}
	defer unlock()
	if !slices.Contains(g.holds.list(false), id) {
		return nil // there is a connection again
	}
	if err := g.swap(ctx, id, nil); err != nil {
		return err
	}
	g.holds.mu.Lock()
	defer g.holds.mu.Unlock()
	delete(g.holds.byID, id)
	return nil
}
