package store

import "context"

// Adoption asks for an image that others have made to become one of the store's.
type Adoption struct {
	// Source is where it lies, in the backend's own words.
	Source string
	// Name it gets; "" means the last part of Source.
	Name string
	// BlockSize is 512 or 4096; 0 means 512, which suits whatever is on it.
	BlockSize int
	// Policy of the image; zero fields mean the store's defaults.
	Policy Policy
}

// Adopter is a store that can make an image of others its own, where it lies and without
// copying.
type Adopter interface {
	// Adopt makes the image an image of the store, with the content, the snapshots and
	// the lineage it has. Ancestors stay whose they are. Repeating it returns the image
	// it has become. An image that cannot be served is refused and left as it was:
	// ErrNotFound, ErrInUse when somebody has it open, ErrUnsupported and ErrRange for
	// what it is made of, ErrConflict when name or image are taken, ErrBusy while
	// another adoption of it has not ended.
	Adopt(ctx context.Context, a Adoption) (Info, error)
}
