package layered

// WaitTidy waits until the layers sealed so far are tidied up.
func (st *Store) WaitTidy() { st.tidying.Wait() }
