package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
)

const (
	// poolNote is the note with the name of the pool that claimed a store.
	poolNote = "pool"
	// memberPrefix begins the notes about members.
	memberPrefix = "member/"
	// forgotten begins what stands in place of the address of a member that was given
	// up; the address it had follows.
	forgotten = "forgotten "
)

// givenUp tells whether a note about a member says that it was forgotten.
func givenUp(note string) bool { return strings.HasPrefix(note, forgotten) }

// judge makes a view of what was found: who is a member, who is missing, who is
// refused. It then writes down what is new.
func (p *members) judge(ctx context.Context, found []probe, lost []Missing) View {
	known := p.remembered(found)
	v := View{Pool: p.Name, Missing: lost}
	at := p.choose(found, known)
	notes := make(map[string]probe, len(at))
	for _, f := range at {
		uuid := f.status.UUID
		if why := p.refuse(f, at, known); why != "" {
			v.Refused = append(v.Refused, Refused{UUID: uuid, Addr: f.addr, Reason: why})
			continue
		}
		notes[uuid] = f
		v.Members = append(v.Members, p.member(f))
	}
	p.missing(&v, found, known)
	slices.SortFunc(v.Members, func(a, b Member) int { return cmp.Compare(a.UUID, b.UUID) })
	slices.SortFunc(v.Missing, func(a, b Missing) int {
		return cmp.Or(cmp.Compare(a.UUID, b.UUID), cmp.Compare(a.Addr, b.Addr))
	})
	slices.SortFunc(v.Refused, func(a, b Refused) int { return cmp.Compare(a.UUID, b.UUID) })
	if !p.opts.Observe {
		p.record(ctx, &v, found, known, notes)
	}
	for _, m := range v.Members {
		p.seen[m.UUID] = lasting(m, found, known[m.UUID])
	}
	for uuid, addr := range known {
		if givenUp(addr) {
			delete(p.seen, uuid)
			v.Forgotten = append(v.Forgotten, uuid)
		} else if p.seen[uuid] == "" {
			p.seen[uuid] = addr
		}
	}
	slices.Sort(v.Forgotten)
	return v
}

// member is what answers, as a member.
func (p *members) member(f probe) Member {
	return Member{
		UUID: f.status.UUID, Addr: f.addr, Local: strings.HasPrefix(f.addr, "unix:"),
		Joined: f.pool == p.Name && f.notes[f.status.UUID] != "", Status: f.status, Remote: f.remote,
	}
}

// choose picks one address for each store that answers: a unix socket before the
// network, then the address that is on record.
func (p *members) choose(found []probe, known map[string]string) []probe {
	rank := func(f probe) int {
		switch {
		case strings.HasPrefix(f.addr, "unix:"):
			return 0
		case f.addr == known[f.status.UUID]:
			return 1
		}
		return 2
	}
	at := slices.DeleteFunc(slices.Clone(found), func(f probe) bool { return f.err != nil })
	slices.SortFunc(at, func(a, b probe) int {
		return cmp.Or(cmp.Compare(a.status.UUID, b.status.UUID), cmp.Compare(rank(a), rank(b)), cmp.Compare(a.addr, b.addr))
	})
	return slices.CompactFunc(at, func(a, b probe) bool { return a.status.UUID == b.status.UUID })
}

// refuse says why a store that answers is no member; "" if it is one, or may become one.
func (p *members) refuse(f probe, at []probe, known map[string]string) string {
	uuid := f.status.UUID
	switch {
	case givenUp(known[uuid]):
		return "it was forgotten; admit it again if its volumes are wanted"
	case f.pool != "" && f.pool != p.Name:
		return fmt.Sprintf("it belongs to pool %s", f.pool)
	case known[uuid] != "" || f.notes[uuid] != "":
		return ""
	}
	for old, addr := range known {
		elsewhere := slices.ContainsFunc(at, func(o probe) bool { return o.status.UUID == old })
		if addr == f.addr && !elsewhere {
			return fmt.Sprintf("store %s was here and is nowhere now; if it is gone for good, forget it", old)
		}
	}
	return ""
}

// missing lists the known members and the configured addresses that do not answer.
func (p *members) missing(v *View, found []probe, known map[string]string) {
	failed := make(map[string]error)
	for _, f := range found {
		if f.err != nil {
			failed[f.addr] = f.err
		}
	}
	named := make(map[string]bool)
	for uuid, addr := range known {
		if _, ok := v.Member(uuid); ok || givenUp(addr) {
			named[strings.TrimPrefix(addr, forgotten)] = true
			continue
		}
		err := failed[addr]
		if err == nil {
			err = errors.New("it answers at none of the pool's addresses")
		}
		v.Missing = append(v.Missing, Missing{UUID: uuid, Addr: addr, Err: err})
		named[addr] = true
	}
	for addr, err := range failed {
		// The socket of a local store and the old address of a member that has moved
		// lead nowhere without meaning that a store is missing.
		// One gateway of a Ceph pool that answers shows all there is.
		if p.Backend == BackendCeph && len(v.Members) > 0 {
			continue
		}
		if named[addr] || !slices.Contains(p.Members, addr) && !p.fromService(addr, known) {
			continue
		}
		v.Missing = append(v.Missing, Missing{Addr: addr, Err: err})
	}
}

// fromService tells whether addr can only come from the service: it is neither
// configured nor remembered.
func (p *members) fromService(addr string, known map[string]string) bool {
	if p.Service == "" || strings.HasPrefix(addr, "unix:") {
		return false
	}
	for _, a := range known {
		if a == addr {
			return false
		}
	}
	return true
}

// lasting is the address by which others should look for a member: one that the network
// knows, if there is one, and the one on record as long as it is right.
func lasting(m Member, found []probe, recorded string) string {
	best := ""
	for _, f := range found {
		if f.err != nil || f.status.UUID != m.UUID {
			continue
		}
		if f.addr == recorded {
			return recorded
		}
		if best == "" || strings.HasPrefix(best, "unix:") && !strings.HasPrefix(f.addr, "unix:") {
			best = f.addr
		}
	}
	return best
}

// record writes what is new into the notebooks: each member's address on every member,
// and in a member's own notebook, last of all, that it has joined.
func (p *members) record(ctx context.Context, v *View, found []probe, known map[string]string, at map[string]probe) {
	ctx, cancel := context.WithTimeout(ctx, p.opts.ProbeTimeout)
	defer cancel()
	for i := range v.Members {
		m := &v.Members[i]
		addr := lasting(*m, found, known[m.UUID])
		everywhere := true
		for _, o := range v.Members {
			if o.UUID != m.UUID {
				everywhere = p.note(ctx, at[o.UUID], m.UUID, addr) && everywhere
			}
		}
		absent := slices.ContainsFunc(v.Missing, func(x Missing) bool { return x.UUID != "" })
		if !m.Joined && (absent || !everywhere) {
			continue // somebody who has to know of it does not
		}
		// One that has joined stays so, although its new address could not be noted now.
		m.Joined = p.claim(ctx, at[m.UUID]) && p.note(ctx, at[m.UUID], m.UUID, addr) || m.Joined
	}
	for uuid, addr := range known { // members that do not answer, and those given up
		if _, ok := v.Member(uuid); ok {
			continue
		}
		for _, o := range v.Members {
			if o.Joined && (givenUp(addr) || at[o.UUID].notes[uuid] == "") {
				p.note(ctx, at[o.UUID], uuid, addr)
			}
		}
	}
}

// note makes the note about a member at one store say addr.
func (p *members) note(ctx context.Context, f probe, uuid, addr string) bool {
	if f.notes[uuid] == addr {
		return true
	}
	if f.remote.SwapNote(ctx, memberPrefix+uuid, f.notes[uuid], addr) != nil {
		return false // the next discovery tries again, with what it reads then
	}
	f.notes[uuid] = addr
	return true
}

// claim makes a store one of this pool.
func (p *members) claim(ctx context.Context, f probe) bool {
	if f.pool == p.Name {
		return true
	}
	err := f.remote.SwapNote(ctx, poolNote, "", p.Name)
	return err == nil || errors.Is(err, store.ErrConflict) && p.claimed(ctx, f)
}

func (p *members) claimed(ctx context.Context, f probe) bool {
	name, err := f.remote.Note(ctx, poolNote)
	return err == nil && name == p.Name
}
