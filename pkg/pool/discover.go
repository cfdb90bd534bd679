package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/strata-csi/strata/pkg/store"
)

const (
	// parallel is how many stores are asked at once.
	parallel = 16
	// socket is the name of the API's unix socket in a data directory.
	socket = "api.sock"
)

// members is one pool: its settings, what was seen of it, and the latest view.
type members struct {
	Settings
	opts  Options
	conns *conns
	life  context.Context // ends with the set
	wg    *sync.WaitGroup

	mu     sync.Mutex
	latest View
	began  time.Time         // of the discovery that made latest
	ended  time.Time         // of the same
	run    *discovery        // under way
	seen   map[string]string // of every known member the address it was last seen at; only a discovery touches it
}

// discovery is one round of asking everybody.
type discovery struct {
	began time.Time
	done  chan struct{}
	view  View // valid when done is closed
}

// view returns a view whose discovery ended at most maxAge ago; with maxAge < 0 one whose
// discovery begins after the call. Callers share discoveries. Age is counted from the end,
// because a store that is dead makes every discovery last for its timeout: counted from
// the beginning, a view would be too old for everybody by the time it is there.
func (p *members) view(ctx context.Context, maxAge time.Duration) (View, error) {
	asked := p.opts.Now()
	for first := true; ; first = false {
		p.mu.Lock()
		if !p.began.IsZero() && (maxAge >= 0 && asked.Sub(p.ended) <= maxAge || !first && !p.began.Before(asked)) {
			v := p.latest.clone()
			p.mu.Unlock()
			return v, nil
		}
		run := p.run
		if run == nil {
			if p.life.Err() != nil {
				p.mu.Unlock()
				return View{}, fmt.Errorf("pool %s: %w", p.Name, store.ErrClosed)
			}
			run = &discovery{began: p.opts.Now(), done: make(chan struct{})}
			p.run = run
			p.wg.Add(1)
			go p.discover(run)
		}
		p.mu.Unlock()
		select {
		case <-run.done:
			if !run.began.Before(asked) || maxAge >= 0 {
				return run.view.clone(), nil
			}
		case <-ctx.Done():
			return View{}, fmt.Errorf("pool %s: %w", p.Name, ctx.Err())
		}
	}
}

func (v View) clone() View {
	v.Members, v.Missing = slices.Clone(v.Members), slices.Clone(v.Missing)
	v.Refused, v.Forgotten = slices.Clone(v.Refused), slices.Clone(v.Forgotten)
	return v
}

// discover runs one discovery to its end, whoever waits for it.
func (p *members) discover(run *discovery) {
	defer p.wg.Done()
	view := p.look(p.life)
	p.conns.sweep()
	ended := p.opts.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	run.view, p.latest, p.began, p.ended, p.run = view, view, run.began, ended, nil
	close(run.done)
}

// probe is what was found at one address.
type probe struct {
	addr   string
	remote Remote
	status store.Status
	notes  map[string]string // notes about members, by UUID
	pool   string            // the pool that claimed the store
	err    error
}

// look asks every candidate who it is, then those that the first ones remember.
func (p *members) look(ctx context.Context) View {
	addrs, lost := p.candidates(ctx)
	found := p.probe(ctx, addrs)
	for range 3 { // those found may remember more
		var more []string
		for uuid, addr := range p.remembered(found) {
			asked := slices.ContainsFunc(found, func(f probe) bool { return f.addr == addr || f.err == nil && f.status.UUID == uuid })
			if addr != "" && !givenUp(addr) && !asked && !slices.Contains(more, addr) {
				more = append(more, addr)
			}
		}
		if len(more) == 0 {
			break
		}
		found = append(found, p.probe(ctx, more)...)
	}
	return p.judge(ctx, found, lost)
}

// candidates are the addresses that the configuration gives now, and what could not be
// looked up.
func (p *members) candidates(ctx context.Context) ([]string, []Missing) {
	addrs := slices.Clone(p.Members)
	if p.Local != "" {
		addrs = append(addrs, "unix:"+filepath.Join(p.Local, socket))
	}
	var lost []Missing
	if p.Service != "" {
		ctx, cancel := context.WithTimeout(ctx, p.opts.ProbeTimeout)
		defer cancel()
		host, port, _ := net.SplitHostPort(p.Service) // checked when the file was read
		hosts, err := p.opts.Resolver.LookupHost(ctx, host)
		var dns *net.DNSError
		if err != nil && !(errors.As(err, &dns) && dns.IsNotFound) { // no pod is ready: nobody to ask
			lost = append(lost, Missing{Addr: p.Service, Err: err})
		}
		for _, h := range hosts {
			addrs = append(addrs, net.JoinHostPort(h, port))
		}
	}
	slices.Sort(addrs)
	return slices.Compact(addrs), lost
}

// probe asks the stores at all these addresses, in parallel.
func (p *members) probe(ctx context.Context, addrs []string) []probe {
	found := make([]probe, len(addrs))
	var g errgroup.Group
	g.SetLimit(parallel)
	for i, addr := range addrs {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, p.opts.ProbeTimeout)
			defer cancel()
			found[i] = p.ask(ctx, addr)
			return nil
		})
	}
	_ = g.Wait() // errors are in the probes
	return found
}

func (p *members) ask(ctx context.Context, addr string) probe {
	f := probe{addr: addr, notes: make(map[string]string)}
	if f.remote, f.err = p.conns.get(addr); f.err != nil {
		return f
	}
	if f.status, f.err = f.remote.Status(ctx); f.err != nil {
		return f
	}
	f.err = f.remote.Notes(ctx, memberPrefix, func(key, value string) error {
		f.notes[strings.TrimPrefix(key, memberPrefix)] = value
		return nil
	})
	if f.err != nil {
		return f
	}
	f.pool, f.err = f.remote.Note(ctx, poolNote)
	if errors.Is(f.err, store.ErrNotFound) {
		f.err = nil
	}
	return f
}

// remembered merges what the process has seen with the notes of members that answer.
// That a member was forgotten outweighs everything else.
func (p *members) remembered(found []probe) map[string]string {
	all := maps.Clone(p.seen)
	for _, f := range found {
		if f.err != nil || f.pool != p.Name || f.notes[f.status.UUID] == "" {
			continue // not a member that joined: its notes are not ours
		}
		for uuid, addr := range f.notes {
			if all[uuid] == "" || givenUp(addr) {
				all[uuid] = addr
			}
		}
	}
	return all
}
