package layered

import "github.com/strata-csi/strata/pkg/store/layered/meta"

// WaitTidy waits until the layers sealed so far are tidied up.
func (st *Store) WaitTidy() { st.tidying.Wait() }

// MarkIdle is one look of the watcher of idle images.
func (st *Store) MarkIdle() { st.markIdle() }

// ForgetSums is what a merge does before it changes the layer.
func (st *Store) ForgetSums(layer uint64) error { return st.sums.forget(meta.LayerID(layer)) }
