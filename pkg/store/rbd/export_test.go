//go:build ceph

package rbd

import (
	"github.com/strata-csi/strata/pkg/store"
)

// Kill ends the store as SIGKILL would: its client is fenced, so nothing of it takes
// effect from now on, and then it is taken apart.
func (s *Store) Kill() error {
	s.closing.Store(true)
	close(s.stop)
	s.wg.Wait()
	other, err := dial(s.o)
	if err != nil {
		return err
	}
	defer other.close()
	if err := other.fence(s.c.addresses); err != nil {
		return err
	}
	s.queue.Kill()
	s.life.Lock()
	defer s.life.Unlock()
	s.over = true
	for _, h := range s.handles.all() {
		_ = h.end(store.ErrClosed) // its client is fenced: that it fails is expected
	}
	s.c.close()
	return nil
}
