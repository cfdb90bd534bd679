package layered

import (
	"sync"

	"github.com/strata-csi/strata/pkg/store/layered/layer"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// layerSums keeps the files of checksums and those who change what they are of apart. A
// merge forgets the checksums of both its layers before it changes anything; whoever is
// about to write some that it computed before finds that their era has ended.
//
// Other background work needs nothing of this: it adds blocks, which have no checksum
// until the next reading, or gives space back that is no block's.
type layerSums struct {
	env *layer.Env

	mu   sync.Mutex
	eras map[meta.LayerID]uint64
}

func newLayerSums(env *layer.Env) *layerSums {
	return &layerSums{env: env, eras: map[meta.LayerID]uint64{}}
}

// era changes when the checksums of a layer are forgotten.
func (s *layerSums) era(id meta.LayerID) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.eras[id]
}

// commit puts new checksums in place if their era lasts.
func (s *layerSums) commit(id meta.LayerID, era uint64, w *layer.SumWriter) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.eras[id] != era {
		w.Abort()
		return errChanging
	}
	return w.Commit()
}

// keep leaves unfinished checksums for later if their era lasts.
func (s *layerSums) keep(id meta.LayerID, era uint64, w *layer.SumWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.eras[id] != era {
		w.Abort()
		return
	}
	w.Keep()
}

// forget removes the checksums of layers, durably.
func (s *layerSums) forget(ids ...meta.LayerID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		s.eras[id]++
		if err := layer.RemoveSums(s.env, uint64(id)); err != nil {
			return err
		}
	}
	return nil
}

// drop is forget for a layer that is gone.
func (s *layerSums) drop(id meta.LayerID) error {
	err := s.forget(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.eras, id)
	return err
}
