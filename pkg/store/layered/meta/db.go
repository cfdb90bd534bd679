package meta

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/strata-csi/strata/pkg/store"
)

// Options of Open.
type Options struct {
	// Timeout is how long to wait for the lock of the file; 0 means not at all.
	Timeout time.Duration
	// ReadOnly takes a shared lock and refuses updates.
	ReadOnly bool
	// NoSync leaves commits in the page cache, for tests: they survive a crash of
	// the process, not of the machine. Syncs still counts what would be done.
	NoSync bool
	// BeforeCommit is asked before each commit; with an error of it nothing is
	// committed. For tests that stop or fail a store at every step. nil allows all.
	BeforeCommit func() error
}

// DB is an open catalogue. All methods may be called concurrently.
type DB struct {
	path string
	file *os.File // bbolt's own handle
	bolt *bolt.DB

	beforeCommit func() error
	uuid         string
	readOnly     bool
	syncs        atomic.Int64
	abandoned    atomic.Bool
	failed       atomic.Pointer[error]
	depths       depths
}

// UUID is the identity of the store that was given to Create.
func (d *DB) UUID() string { return d.uuid }

// Syncs counts the syncs of the file that commits asked for since Open: two a
// commit, and one more when the file grew.
func (d *DB) Syncs() int64 { return d.syncs.Load() }

// View runs fn in a read-only transaction on the state of the last commit. It
// returns fn's error as it is.
func (d *DB) View(fn func(*Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	t, err := d.begin(false)
	if err != nil {
		return err
	}
	defer d.end(t, &err)
	return fn(t)
}

// Update runs fn in a transaction and commits it durably if fn returns nil; any
// error leaves the catalogue as it was and is returned as it is. store.ErrNoSpace
// when the file cannot grow. After any other failed commit it is unknown which state
// a reader of the file finds, and every later Update fails.
func (d *DB) Update(fn func(*Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	if d.readOnly {
		return fmt.Errorf("update catalogue %s: %w", d.path, store.ErrReadOnly)
	}
	t, err := d.begin(true)
	if err != nil {
		return err
	}
	defer d.end(t, &err)
	if failure := d.failed.Load(); failure != nil {
		return fmt.Errorf("update catalogue %s: refused since an earlier failure: %w", d.path, *failure)
	}
	if err := fn(t); err != nil {
		return err
	}
	if !t.dirty {
		return nil
	}
	if d.beforeCommit != nil {
		if err := d.beforeCommit(); err != nil {
			return fmt.Errorf("commit to catalogue %s: %w", d.path, err)
		}
	}
	return d.commit(t)
}

func (d *DB) begin(writable bool) (t *Tx, err error) {
	defer guard("begin a transaction of", bFormat, &err)
	b, err := d.bolt.Begin(writable)
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return nil, fmt.Errorf("catalogue %s: %w", d.path, store.ErrClosed)
	}
	if err != nil {
		return nil, fmt.Errorf("catalogue %s: begin: %w", d.path, err)
	}
	return &Tx{b: b, depths: &d.depths}, nil
}

// end gives up what was not committed. An error of it matters only where there is
// no other.
func (d *DB) end(t *Tx, err *error) {
	if failure := d.rollback(t); failure != nil && *err == nil {
		*err = failure
	}
}

func (d *DB) rollback(t *Tx) (err error) {
	defer guard("end a transaction of", bFormat, &err)
	t.ended = true
	if err := t.b.Rollback(); err != nil && !errors.Is(err, berrors.ErrTxClosed) {
		return fmt.Errorf("catalogue %s: roll back: %w", d.path, err)
	}
	return nil
}

func (d *DB) commit(t *Tx) (err error) {
	if d.abandoned.Load() {
		return fmt.Errorf("commit to catalogue %s: %w", d.path, store.ErrClosed)
	}
	defer func() {
		if err != nil && !errors.Is(err, store.ErrNoSpace) {
			failure := err
			d.failed.CompareAndSwap(nil, &failure)
		}
	}()
	defer guard("commit", bFormat, &err)
	if t.relinked() {
		d.depths.forget(t.b.ID())
	}
	t.ended = true
	before := d.size()
	if err := t.b.Commit(); err != nil {
		return fmt.Errorf("commit to catalogue %s: %w", d.path, classify(err))
	}
	d.syncs.Add(2)
	if d.size() != before {
		d.syncs.Add(1)
	}
	return nil
}

// classify finds a full file system. Only a failed write counts: nothing of the
// commit is visible then. A full disk reported by a sync leaves that open.
func classify(err error) error {
	var write *fs.PathError
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	if full && errors.As(err, &write) && write.Op == "write" {
		return fmt.Errorf("%v: %w", err, store.ErrNoSpace)
	}
	return err
}

func (d *DB) size() int64 {
	st, err := d.file.Stat()
	if err != nil {
		return -1
	}
	return st.Size()
}

// WriteTo writes a copy of the last committed state, as a file that Open accepts.
func (d *DB) WriteTo(w io.Writer) (n int64, err error) {
	err = d.View(func(t *Tx) (err error) {
		defer guard("copy", bFormat, &err)
		if n, err = t.b.WriteTo(w); err != nil {
			return fmt.Errorf("copy catalogue %s: %w", d.path, err)
		}
		return nil
	})
	return n, err
}

// Close waits for transactions to end and releases the file. Repeating it is no
// error.
func (d *DB) Close() error {
	if err := d.bolt.Close(); err != nil {
		return fmt.Errorf("close catalogue %s: %w", d.path, err)
	}
	return nil
}

// Abandon releases the file as a crash of the process would: commits that have
// begun end, none begins after it. It waits for transactions to end.
func (d *DB) Abandon() {
	d.abandoned.Store(true)
	_ = d.bolt.Close() // nothing more is wanted of it
}
