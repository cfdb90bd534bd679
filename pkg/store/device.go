package store

// Device is the bytes of one image or snapshot. Methods may be called
// concurrently; overlapping writes take effect in the order they were begun.
// Offsets and lengths are bytes and need no alignment; anything outside the
// device is ErrRange and changes nothing.
type Device interface {
	// ReadAt fills p from off, wholly or with an error.
	ReadAt(p []byte, off int64) (int, error)
	// WriteAt writes p at off. When it returns, the write survives a crash of the
	// process; after Flush also one of the machine.
	WriteAt(p []byte, off int64) (int, error)
	// Zero makes the range read as zero, exactly. With allocate the space stays
	// reserved (NBD NO_HOLE), else it is given back.
	Zero(off, length int64, allocate bool) error
	// Discard gives the whole blocks in the range back; they read as zero from
	// then on. Partial blocks at the edges are left alone.
	Discard(off, length int64) error
	// Flush makes every write answered before the call durable.
	Flush() error
	// Extents calls fn for consecutive extents that cover the range exactly,
	// until fn returns false. With base set, Extent.Changed is filled in; base
	// must be a snapshot in the object's own history, else ErrInvalid.
	Extents(off, length int64, base ID, fn func(Extent) bool) error
	// Info is the object's description; Size and State are current.
	Info() Info
	// Close releases the device. It does not flush.
	Close() error
}
