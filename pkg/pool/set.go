package pool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// Resolver looks up the addresses of a service; net.Resolver is one.
type Resolver interface {
	LookupHost(ctx context.Context, host string) ([]string, error)
}

// Options of a Set. The zero value of each but Dial has a default.
type Options struct {
	// Dial prepares a connection to the store at host:port or unix:PATH, without
	// waiting for it. Required.
	Dial func(addr string) (Remote, error)
	// Resolver looks up services; net.DefaultResolver if nil.
	Resolver Resolver
	// MaxAge is how old a view may be that View returns; 2 s if 0, none if negative.
	MaxAge time.Duration
	// ProbeTimeout is how long one store may take to say who it is, so that those that are
	// dead hold nobody up; 3 s if 0. Who needs a certain store waits longer: see Find and
	// Reach.
	ProbeTimeout time.Duration
	// Observe keeps the set from writing notes: it joins no store and records no
	// address. Nodes observe; the controller keeps the books.
	Observe bool
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Set is all pools of a pools file. Safe for concurrent use.
type Set struct {
	pools []*members
	conns *conns
	wg    sync.WaitGroup
	stop  context.CancelFunc
}

// Open prepares the pools of cfg. It connects to nothing; the first view does.
// ErrInvalid if cfg has no pools or opts no Dial.
func Open(cfg Config, opts Options) (*Set, error) {
	if len(cfg.Pools) == 0 || opts.Dial == nil {
		return nil, fmt.Errorf("pools: want at least one pool and a way to dial: %w", store.ErrInvalid)
	}
	if opts.Resolver == nil {
		opts.Resolver = net.DefaultResolver
	}
	if opts.MaxAge == 0 {
		opts.MaxAge = 2 * time.Second
	}
	if opts.ProbeTimeout == 0 {
		opts.ProbeTimeout = 3 * time.Second
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Set{conns: newConns(opts.Dial, opts.Now), stop: stop}
	for _, p := range cfg.Pools {
		s.pools = append(s.pools, &members{
			Settings: p, opts: opts, conns: s.conns, life: ctx, wg: &s.wg, seen: make(map[string]string),
		})
	}
	return s, nil
}

// Close ends discoveries that are under way and closes every connection.
func (s *Set) Close() error {
	s.stop()
	s.wg.Wait()
	return s.conns.close()
}

// Names lists the pools, in the order of the file.
func (s *Set) Names() []string {
	names := make([]string, len(s.pools))
	for i, p := range s.pools {
		names[i] = p.Name
	}
	return names
}

// Settings describe the pool of that name, or the default one if name is "".
// ErrNotFound if there is none.
func (s *Set) Settings(name string) (Settings, error) {
	p, err := s.find(name)
	if err != nil {
		return Settings{}, err
	}
	return p.Settings, nil
}

func (s *Set) find(name string) (*members, error) {
	i := slices.IndexFunc(s.pools, func(p *members) bool {
		return p.Name == name || name == "" && p.Default
	})
	switch {
	case i >= 0:
		return s.pools[i], nil
	case name == "":
		return nil, fmt.Errorf("no pool is the default; name one of %q: %w", s.Names(), store.ErrNotFound)
	}
	return nil, fmt.Errorf("pool %q is not in the pools file, which has %q: %w", name, s.Names(), store.ErrNotFound)
}

// View is the pool as it was found at most Options.MaxAge ago. The error says that
// there is no such pool (ErrNotFound) or that the context ended; stores that do not
// answer are in the view.
func (s *Set) View(ctx context.Context, name string) (View, error) {
	p, err := s.find(name)
	if err != nil {
		return View{}, err
	}
	return p.view(ctx, p.opts.MaxAge)
}

// Fresh is View with a discovery that begins after the call.
func (s *Set) Fresh(ctx context.Context, name string) (View, error) {
	p, err := s.find(name)
	if err != nil {
		return View{}, err
	}
	return p.view(ctx, -1)
}

// Find returns one store of a pool, looked up anew if it was not found at the last
// discovery. If it does not answer in time it is asked again for as long as ctx lasts.
// ErrNotFound without such a pool, ErrUnavailable if the store is nowhere.
func (s *Set) Find(ctx context.Context, name, uuid string) (Member, error) {
	v, err := s.View(ctx, name)
	if err != nil {
		return Member{}, err
	}
	if m, ok := v.Member(uuid); ok {
		return m, nil
	}
	if v, err = s.Fresh(ctx, name); err != nil {
		return Member{}, err
	}
	m, err := v.Find(uuid)
	for _, x := range v.Missing {
		if err == nil {
			break
		}
		if x.UUID != uuid && x.UUID != "" {
			continue
		}
		switch late, e := s.Reach(ctx, v, x); {
		case e == nil && late.UUID == uuid:
			m, err = late, nil
		case e != nil && x.UUID == uuid:
			err = e
		}
	}
	return m, err
}

// Lookup finds an image or snapshot by its name in all stores of a pool. ErrNotFound
// if all answered and none has it, ErrUnavailable if one that may have it is missing,
// ErrConflict if several have it.
func (s *Set) Lookup(ctx context.Context, name, ref string) (Member, store.Info, error) {
	v, err := s.Fresh(ctx, name)
	if err != nil {
		return Member{}, store.Info{}, err
	}
	var at []Member
	var found store.Info
	for _, m := range v.Members {
		info, err := m.Remote.Lookup(ctx, ref)
		switch {
		case err == nil:
			at, found = append(at, m), info
		case !errors.Is(err, store.ErrNotFound):
			return Member{}, store.Info{}, fmt.Errorf("pool %s: %s: %w", v.Pool, m, err)
		}
	}
	switch {
	case len(at) > 1:
		return Member{}, store.Info{}, fmt.Errorf("pool %s: %q is in %s and in %s: %w", v.Pool, ref, at[0], at[1], store.ErrConflict)
	case len(at) == 1:
		return at[0], found, nil
	case v.Err() != nil:
		return Member{}, store.Info{}, fmt.Errorf("look up %q: %w", ref, v.Err())
	}
	return Member{}, store.Info{}, fmt.Errorf("pool %s has no %q: %w", v.Pool, ref, store.ErrNotFound)
}
