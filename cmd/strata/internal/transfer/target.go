package transfer

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Target is a new regular file that appears under its name only when it is whole.
type Target struct {
	*File
	temp, path string
	replace    bool
	done       bool
}

// CreateTarget makes a blank sink of size bytes for path. Unless replace is set, a
// file that exists is an error (fs.ErrExist), now and at Commit. The caller calls
// Abort in any case; after Commit it does nothing.
func CreateTarget(path string, size int64, replace bool) (*Target, error) {
	if _, err := os.Lstat(path); err == nil && !replace {
		return nil, &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // replace what a link points to, not the link
	}
	temp := filepath.Join(filepath.Dir(path), ".strata-export-"+rand.Text()+".part")
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: path, Err: cause(err)}
	}
	t := &Target{temp: f.Name(), path: path, replace: replace}
	if t.File, err = NewSparse(f, size); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(t.temp))
	}
	return t, nil
}

// Commit syncs the file, gives it its name and syncs the directory.
func (t *Target) Commit() error {
	if err := t.Flush(); err != nil {
		return fmt.Errorf("sync %s: %w", t.path, err)
	}
	flags := uint(unix.RENAME_NOREPLACE)
	if t.replace {
		flags = 0
	}
	err := unix.Renameat2(unix.AT_FDCWD, t.temp, unix.AT_FDCWD, t.path, flags)
	if errors.Is(err, unix.EINVAL) {
		// The file system has no RENAME_NOREPLACE; a link refuses as well.
		if err = os.Link(t.temp, t.path); err == nil {
			err = os.Remove(t.temp)
		}
	}
	if err != nil {
		return &fs.PathError{Op: "create", Path: t.path, Err: err}
	}
	t.done = true
	dir, err := os.Open(filepath.Dir(t.path))
	if err != nil {
		return errors.Join(err, t.Close())
	}
	return errors.Join(dir.Sync(), dir.Close(), t.Close())
}

// Abort takes the unfinished file away.
func (t *Target) Abort() error {
	if t.done {
		return nil
	}
	t.done = true
	return errors.Join(t.Close(), os.Remove(t.temp))
}

// cause takes an error out of what names the temporary file.
func cause(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}
