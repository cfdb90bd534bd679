package pool

import (
	"context"
	"fmt"
	"slices"

	"github.com/strata-csi/strata/pkg/store"
)

// Reach asks one that is missing in v again, for as long as ctx lasts: a store on a busy
// machine may live and still not answer a discovery in time. What answers is judged as by
// the discovery, with what v knows of forgotten stores; where nobody was seen before (no
// UUID) it may be any store of the pool. ErrUnavailable if it does not answer, or is not
// one of the pool.
func (s *Set) Reach(ctx context.Context, v View, x Missing) (Member, error) {
	p, err := s.find(v.Pool)
	if err != nil {
		return Member{}, err
	}
	if x.Addr != "" && x.Addr != p.Service { // a service is no store
		f := p.ask(ctx, x.Addr)
		if x.Err = p.unwanted(v, x, f); x.Err == nil {
			return p.member(f), nil
		}
	}
	return Member{}, fmt.Errorf("pool %s: %s: %w", p.Name, x, store.ErrUnavailable)
}

// unwanted says why what answered is not the one that was missing.
func (p *members) unwanted(v View, x Missing, f probe) error {
	uuid := f.status.UUID
	switch {
	case f.err != nil:
		return f.err
	case x.UUID != "" && uuid != x.UUID:
		return fmt.Errorf("store %s answers there now", uuid)
	case slices.Contains(v.Forgotten, uuid):
		return fmt.Errorf("store %s answers there, which was forgotten", uuid)
	case f.pool != "" && f.pool != p.Name:
		return fmt.Errorf("store %s answers there, which belongs to pool %s", uuid, f.pool)
	}
	return nil
}
