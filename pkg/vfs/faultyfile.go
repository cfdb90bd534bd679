package vfs

// faultyFile is an open file of a Faulty.
type faultyFile struct {
	fs    *Faulty
	inner File
	name  string
}

// Unwrap is the file below, for CloneRange.
func (f *faultyFile) Unwrap() File { return f.inner }

func (f *faultyFile) do(kind Kind, off, length int64, run func() error) error {
	return f.fs.do(Op{Kind: kind, Path: f.name, Offset: off, Length: length}, run)
}

func (f *faultyFile) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.do(OpRead, off, int64(len(p)), func() (err error) {
		n, err = f.inner.ReadAt(p, off)
		return err
	})
	return n, err
}

func (f *faultyFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.do(OpWrite, off, int64(len(p)), func() (err error) {
		n, err = f.inner.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f *faultyFile) Sync() error {
	ran := false
	err := f.do(OpSync, 0, 0, func() error {
		ran = true
		return f.inner.Sync()
	})
	if loser, ok := f.inner.(interface{ syncFailed() }); ok && !ran && !f.fs.Crashed() {
		loser.syncFailed()
	}
	return err
}

func (f *faultyFile) Truncate(size int64) error {
	return f.do(OpTruncate, size, 0, func() error { return f.inner.Truncate(size) })
}

func (f *faultyFile) Size() (size int64, err error) {
	err = f.do(OpSize, 0, 0, func() (err error) {
		size, err = f.inner.Size()
		return err
	})
	return size, err
}

func (f *faultyFile) Allocated() (bytes int64, err error) {
	err = f.do(OpAllocated, 0, 0, func() (err error) {
		bytes, err = f.inner.Allocated()
		return err
	})
	return bytes, err
}

func (f *faultyFile) PunchHole(off, length int64) error {
	return f.do(OpPunch, off, length, func() error { return f.inner.PunchHole(off, length) })
}

func (f *faultyFile) CloneRange(src File, srcOff, dstOff, length int64) error {
	return f.do(OpClone, dstOff, length, func() error {
		return f.inner.CloneRange(src, srcOff, dstOff, length)
	})
}

func (f *faultyFile) DropCache(off, length int64) error {
	return f.do(OpDropCache, off, length, func() error { return f.inner.DropCache(off, length) })
}

// Close closes the file below even when it is told to fail: a failed close leaves
// no descriptor open, and neither does the end of a process.
func (f *faultyFile) Close() error {
	ran := false
	err := f.do(OpClose, 0, 0, func() error {
		ran = true
		return f.inner.Close()
	})
	if !ran {
		f.inner.Close()
	}
	return err
}
