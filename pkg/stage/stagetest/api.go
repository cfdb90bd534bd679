package stagetest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/strata-csi/strata/pkg/store"
)

// Status implements stage.API.
func (s *Store) Status(context.Context) (store.Status, error) {
	if err := s.enter("Status"); err != nil {
		return store.Status{}, err
	}
	defer s.mu.Unlock()
	return store.Status{UUID: s.uuid}, nil
}

// Stat implements stage.API.
func (s *Store) Stat(_ context.Context, id store.ID) (store.Info, error) {
	if err := s.enter("Stat"); err != nil {
		return store.Info{}, err
	}
	defer s.mu.Unlock()
	i, err := s.find(id)
	if err != nil {
		return store.Info{}, err
	}
	return i.info, nil
}

// Usage implements stage.API; what is not a hole in the file is data.
func (s *Store) Usage(_ context.Context, id store.ID) (store.Usage, error) {
	if err := s.enter("Usage"); err != nil {
		return store.Usage{}, err
	}
	defer s.mu.Unlock()
	i, err := s.find(id)
	if err != nil {
		return store.Usage{}, err
	}
	st, err := os.Stat(s.File(id))
	if err != nil {
		return store.Usage{}, err
	}
	const sector = 512
	return store.Usage{ID: id, Size: i.info.Size, Own: st.Sys().(*syscall.Stat_t).Blocks * sector}, nil
}

// rank orders formats: they only move up.
func rank(f store.Format) int {
	switch f {
	case store.FormatNone:
		return 0
	case store.FormatBegun:
		return 1
	}
	return 2
}

// Modify implements stage.API.
func (s *Store) Modify(_ context.Context, id store.ID, c store.Change) (store.Info, error) {
	if err := s.enter("Modify"); err != nil {
		return store.Info{}, err
	}
	defer s.mu.Unlock()
	i, err := s.find(id)
	if err != nil {
		return store.Info{}, err
	}
	if c.Format != nil {
		if rank(*c.Format) < rank(i.info.Format) || rank(*c.Format) == 2 && rank(i.info.Format) == 2 && *c.Format != i.info.Format {
			return store.Info{}, fmt.Errorf("format %q after %q: %w", *c.Format, i.info.Format, store.ErrConflict)
		}
		i.info.Format = *c.Format
	}
	return i.info, nil
}

// Publish implements stage.API.
func (s *Store) Publish(_ context.Context, id store.ID, node string, access store.Access) (store.Publication, error) {
	if err := s.enter("Publish"); err != nil {
		return store.Publication{}, err
	}
	defer s.mu.Unlock()
	i, err := s.find(id)
	if err != nil {
		return store.Publication{}, err
	}
	for _, p := range i.pubs {
		if p.Node == node && p.Access == access {
			return p, nil
		}
		if p.Access.Writes() || access.Writes() {
			return store.Publication{}, fmt.Errorf("published to %s: %w", p.Node, store.ErrInUse)
		}
	}
	s.epoch++
	p := store.Publication{ID: id, Target: id, Node: node, Access: access, Epoch: s.epoch, Token: fmt.Sprintf("%032x", 0xfeed0000+s.epoch)}
	i.pubs = append(i.pubs, p)
	return p, nil
}

// Unpublish implements stage.API.
func (s *Store) Unpublish(_ context.Context, id store.ID, node string) error {
	if err := s.enter("Unpublish"); err != nil {
		return err
	}
	defer s.mu.Unlock()
	i, err := s.find(id)
	if err != nil {
		return err
	}
	i.pubs = slices.DeleteFunc(i.pubs, func(p store.Publication) bool {
		if node != "" && p.Node != node {
			return false
		}
		i.cut(func(c session) bool { return c.epoch == p.Epoch })
		return true
	})
	return nil
}

// Publications implements stage.API.
func (s *Store) Publications(_ context.Context, id store.ID) ([]store.Publication, error) {
	if err := s.enter("Publications"); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	i, err := s.find(id)
	if err != nil {
		return nil, err
	}
	pubs := slices.Clone(i.pubs)
	for n := range pubs {
		if !s.Local {
			pubs[n].Token = ""
		}
		pubs[n].Connected = slices.ContainsFunc(i.sessions, func(c session) bool {
			return c.epoch == pubs[n].Epoch && !hungUp(c.end)
		})
	}
	return pubs, nil
}

// Note implements stage.API.
func (s *Store) Note(_ context.Context, key string) (string, error) {
	if err := s.enter("Note"); err != nil {
		return "", err
	}
	defer s.mu.Unlock()
	v, ok := s.notes[key]
	if !ok {
		return "", fmt.Errorf("note %s: %w", key, store.ErrNotFound)
	}
	return v, nil
}

// SwapNote implements stage.API.
func (s *Store) SwapNote(_ context.Context, key, old, value string) error {
	if err := s.enter("SwapNote"); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if s.notes[key] != old {
		return fmt.Errorf("note %s: %w", key, store.ErrConflict)
	}
	s.notes[key] = value
	return nil
}
