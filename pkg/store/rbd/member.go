//go:build ceph

package rbd

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// join writes this member's row, once whoever has it is fenced.
func (s *Store) join(ctx context.Context) error {
	for {
		var old meta.Member
		if err := s.cat.View(ctx, func(st *meta.State) error { old = st.Members[s.o.Member]; return nil }); err != nil {
			return err
		}
		if old.Addresses != "" && !old.Clean {
			if err := s.c.fence(old.Addresses); err != nil {
				return err
			}
		}
		won := false
		_, err := s.cat.Update(ctx, func(t *meta.Tx) error {
			if won = t.Members[s.o.Member] == old; !won {
				return nil // another one came in between
			}
			if t.Meta.UUID == "" {
				t.PutMeta(meta.Meta{UUID: string(store.NewID()), Version: meta.Version})
			}
			t.PutMember(meta.Member{Name: s.o.Member, Addresses: s.c.addresses, Since: time.Now().UTC()})
			s.sawAll(t, s.o.Member)
			return nil
		})
		if err != nil {
			return err
		}
		if won {
			return s.lease(true)
		}
	}
}

// sawAll says that a member has nothing open.
func (s *Store) sawAll(t *meta.Tx, member string) {
	for _, c := range t.CutsFor(member) {
		if parent := t.Seen(c.ID, member); parent != "" {
			s.queueCollect(t, parent)
		}
	}
}

// A member holds a lock with a time limit as long as it lives. It is no mutual exclusion:
// it only tells others that they need not wait for what this member has begun.
const (
	leaseLock = "lease"
	// leaseRenew is RADOS' flag to lengthen a lock that one has.
	leaseRenew = byte(1)
)

func (s *Store) memberObject(name string) string {
	return s.prefix() + "member." + hex.EncodeToString([]byte(name))
}

// lease takes or lengthens this member's lock. With take, one that its fenced predecessor
// left is broken.
func (s *Store) lease(take bool) error {
	object, flag := s.memberObject(s.o.Member), leaseRenew
	for {
		code, err := s.c.io.LockExclusive(object, leaseLock, s.c.addresses, "strata", s.o.Lease, &flag)
		if err != nil {
			return classify(fmt.Errorf("take the lease of member %s: %w", s.o.Member, err))
		}
		if code != -int(syscall.EBUSY) || !take {
			return nil
		}
		held, err := s.c.io.ListLockers(object, leaseLock)
		if err != nil && !gone(err) {
			return classify(fmt.Errorf("look who has the lease of member %s: %w", s.o.Member, err))
		}
		for i := 0; held != nil && i < len(held.Clients); i++ {
			if _, err := s.c.io.BreakLock(object, leaseLock, held.Clients[i], held.Cookies[i]); err != nil && !gone(err) {
				return classify(fmt.Errorf("break the lease of member %s: %w", s.o.Member, err))
			}
		}
	}
}

// addressed tells whether an address of a lock's owner is one of a member's.
func addressed(m meta.Member, owner string) bool {
	return m.Addresses != "" && strings.Contains(m.Addresses, owner) || owner != "" && strings.Contains(owner, m.Addresses)
}

// release gives the lease up; if that fails it runs out.
func (s *Store) release() {
	_, _ = s.c.io.Unlock(s.memberObject(s.o.Member), leaseLock, s.c.addresses)
}

// alive tells whether a member's lease holds.
func (s *Store) alive(m meta.Member) (bool, error) {
	held, err := s.c.io.ListLockers(s.memberObject(m.Name), leaseLock)
	if gone(err) {
		return false, nil
	}
	if err != nil {
		return false, classify(fmt.Errorf("look at the lease of member %s: %w", m.Name, err))
	}
	return slices.Contains(held.Cookies, m.Addresses), nil
}

// sweep takes over from members whose lease has run out, if they have left anything that
// somebody waits for. One that has not is left alone: it may only be slow, and clients may
// have devices on it.
func (s *Store) sweep(ctx context.Context) error {
	var left []meta.Member
	if err := s.cat.View(ctx, func(st *meta.State) error {
		for _, m := range st.Members {
			if m.Name != s.o.Member && !m.Clean && st.Leaves(m.Name) {
				left = append(left, m)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, m := range left {
		alive, err := s.alive(m)
		if err == nil && !alive {
			err = s.takeOver(ctx, m)
		}
		if err != nil {
			return fmt.Errorf("take over from member %s: %w", m.Name, err)
		}
	}
	return nil
}

// takeOver fences a member, and makes its intents and jobs this member's.
func (s *Store) takeOver(ctx context.Context, m meta.Member) error {
	if err := s.c.fence(m.Addresses); err != nil {
		return err
	}
	failpoint.Hit("rbd.takeover.fenced")
	if err := s.update(ctx, func(t *meta.Tx) error {
		if t.Members[m.Name] != m {
			return nil // it came back, or another member was faster
		}
		for _, i := range t.Intents {
			if i.Owner == m.Name {
				i.Owner = s.o.Member
				t.PutIntent(i)
			}
		}
		for _, j := range t.Jobs {
			if j.Owner == m.Name {
				j.Owner = s.o.Member
				t.PutJob(j)
			}
		}
		s.sawAll(t, m.Name)
		m.Clean = true
		t.PutMember(m)
		return nil
	}); err != nil {
		return err
	}
	return errors.Join(s.replay(ctx), s.syncJobs(ctx))
}
