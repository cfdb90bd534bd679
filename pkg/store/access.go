package store

import "fmt"

// ValidateAccess accepts the constants.
func ValidateAccess(a Access) error {
	if !a.Valid() {
		return fmt.Errorf("access %q is none of %s, %s, %s and %s: %w",
			clip(string(a)), AccessWrite, AccessShared, AccessRead, AccessScratch, ErrInvalid)
	}
	return nil
}

// Beside tells whether publications with the two accesses may exist at once: both
// share, or neither changes the object.
func (a Access) Beside(b Access) bool {
	return a == AccessShared && b == AccessShared || a.Valid() && b.Valid() && !a.Writes() && !b.Writes()
}
