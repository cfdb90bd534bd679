package layered

// WaitTidy waits until the layers sealed so far are tidied up.
func (st *Store) WaitTidy() { st.tidying.Wait() }

// MarkIdle is one look of the watcher of idle images.
func (st *Store) MarkIdle() { st.markIdle() }
