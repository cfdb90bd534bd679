package store

import "errors"

// The sentinels classify every error of a backend. Callers test with errors.Is;
// backends add operation and object with %w. pkg/export maps them to NBD errors
// and pkg/storeapi to gRPC codes; a test in each fails when one is missing.
var (
	// ErrInvalid: the request itself is malformed (name, option, alignment).
	ErrInvalid = errors.New("invalid request")
	// ErrRange: a size or offset is outside what the object or store allows.
	ErrRange = errors.New("out of range")
	// ErrNotFound: no object has that id or name.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the name exists with a different specification.
	ErrConflict = errors.New("already exists")
	// ErrBusy: try again; something must finish first (a flatten at the hard limit).
	ErrBusy = errors.New("busy")
	// ErrInUse: the object is published or open for writing elsewhere.
	ErrInUse = errors.New("in use")
	// ErrNoSpace: the store has no room for the request. Nothing was changed.
	ErrNoSpace = errors.New("no space left in the store")
	// ErrReadOnly: writing to a snapshot, a read-only device or a poisoned image.
	ErrReadOnly = errors.New("read-only")
	// ErrClosed: the device or store is closed.
	ErrClosed = errors.New("closed")
	// ErrFenced: the publication was withdrawn or superseded.
	ErrFenced = errors.New("publication is no longer valid")
	// ErrCorrupt: a checksum or invariant does not hold. The object is refused.
	ErrCorrupt = errors.New("damaged")
	// ErrUnsupported: this backend cannot do it.
	ErrUnsupported = errors.New("not supported")
	// ErrUnavailable: the store that has the answer cannot be reached.
	ErrUnavailable = errors.New("store unavailable")
)

// Sentinels lists every sentinel above, for the tests that prove the mappings complete.
func Sentinels() []error {
	return []error{ErrInvalid, ErrRange, ErrNotFound, ErrConflict, ErrBusy, ErrInUse, ErrNoSpace,
		ErrReadOnly, ErrClosed, ErrFenced, ErrCorrupt, ErrUnsupported, ErrUnavailable}
}
