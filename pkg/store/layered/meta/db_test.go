package meta

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
)

const testUUID = "11111111-2222-4333-8444-555555555555"

// newDB opens a fresh catalogue that must verify clean when the test ends.
func newDB(t testing.TB) *DB {
	t.Helper()
	path := newFile(t)
	d, err := Open(path, Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		mustVerify(t, d)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func newFile(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "catalogue.db")
	if err := Create(path, testUUID); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustVerify(t testing.TB, d *DB) {
	t.Helper()
	if err := d.View(func(tx *Tx) error {
		for _, p := range tx.Verify() {
			t.Errorf("verify: %s: %s", p.Object, p.Text)
		}
		return nil
	}); err != nil {
		t.Errorf("verify: %v", err)
	}
}

func update(t testing.TB, d *DB, fn func(*Tx) error) {
	t.Helper()
	if err := d.Update(fn); err != nil {
		t.Fatal(err)
	}
}

func view(t testing.TB, d *DB, fn func(*Tx) error) {
	t.Helper()
	if err := d.View(fn); err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error, parts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not name %q", err, p)
		}
	}
}

func TestCreateRefusesExistingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalogue.db")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantErr(t, Create(path, testUUID), store.ErrConflict, path)
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Error("the existing file was changed")
	}
	wantErr(t, Create(filepath.Join(t.TempDir(), "x"), ""), store.ErrInvalid)
}

func TestCreateOverwritesLeftoverOfCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalogue.db")
	if err := os.WriteFile(path+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Create(path, testUUID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + ".new"); !errors.Is(err, os.ErrNotExist) {
		t.Error("the leftover is still there")
	}
	d, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d.UUID() != testUUID {
		t.Errorf("uuid %q", d.UUID())
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Run("missing", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "none.db")
		_, err := Open(path, Options{})
		wantErr(t, err, store.ErrNotFound, path)
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Error("open made a file")
		}
	})
	t.Run("locked", func(t *testing.T) {
		path := newFile(t)
		d, err := Open(path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(path, Options{Timeout: 2 * lockPoll})
		wantErr(t, err, store.ErrInUse, path)
		d.Abandon()
		again, err := Open(path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	})
	for _, version := range []string{"0", "2", "99"} {
		t.Run("version "+version, func(t *testing.T) {
			path := newFile(t)
			rewriteFormat(t, path, keyVersion, version)
			_, err := Open(path, Options{})
			wantErr(t, err, store.ErrUnsupported, path, "version "+version, map[bool]string{true: "upgrade-format", false: "newer strata"}[version == "0"])
			if got, err := ReadFormat(path); strconv.Itoa(got) != version || err != nil {
				t.Errorf("its format is %d, %v", got, err)
			}
		})
	}
	t.Run("no version", func(t *testing.T) {
		path := newFile(t)
		rewriteFormat(t, path, keyVersion, "one")
		_, err := Open(path, Options{})
		wantErr(t, err, store.ErrCorrupt, path)
		_, err = ReadFormat(path)
		wantErr(t, err, store.ErrCorrupt, path)
	})
}

func rewriteFormat(t *testing.T, path, key, value string) {
	t.Helper()
	d, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	update(t, d, func(tx *Tx) error { return tx.put(bFormat, []byte(key), []byte(value)) })
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestReadersShareAReadOnlyFile(t *testing.T) {
	path := newFile(t)
	a, err := Open(path, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(path, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	wantErr(t, a.Update(func(*Tx) error { return nil }), store.ErrReadOnly)
	_, err = Open(path, Options{})
	wantErr(t, err, store.ErrInUse)
	if err := errors.Join(a.Close(), b.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestUpdateIsAllOrNothing(t *testing.T) {
	d := newDB(t)
	stop := errors.New("stop")
	err := d.Update(func(tx *Tx) error {
		if err := tx.PutMark("a", []byte("1")); err != nil {
			return err
		}
		return stop
	})
	if !errors.Is(err, stop) {
		t.Fatalf("error %v, want the function's own", err)
	}
	wantMark(t, d, "a", nil)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a panic of the caller was swallowed")
			}
		}()
		_ = d.Update(func(tx *Tx) error {
			_ = tx.PutMark("a", []byte("1"))
			panic("caller")
		})
	}()
	wantMark(t, d, "a", nil)
	update(t, d, func(tx *Tx) error { return tx.PutMark("a", []byte("2")) })
	wantMark(t, d, "a", []byte("2"))
}

func wantMark(t testing.TB, d *DB, key string, want []byte) {
	t.Helper()
	view(t, d, func(tx *Tx) error {
		got, err := tx.Mark(key)
		if !bytes.Equal(got, want) || (got == nil) != (want == nil) {
			t.Errorf("mark %q is %q, want %q", key, got, want)
		}
		return err
	})
}

func TestSyncsPerCommit(t *testing.T) {
	path := newFile(t)
	d, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	update(t, d, func(tx *Tx) error { return tx.PutMark("warm", []byte("x")) }) // may grow the file
	before := d.Syncs()
	update(t, d, func(tx *Tx) error { return tx.PutMark("a", []byte("x")) })
	if n := d.Syncs() - before; n != 2 {
		t.Errorf("a commit took %d syncs, want 2", n)
	}
	before = d.Syncs()
	update(t, d, func(tx *Tx) error { _, err := tx.Mark("a"); return err })
	view(t, d, func(tx *Tx) error { _, err := tx.Mark("a"); return err })
	_ = d.Update(func(tx *Tx) error { return errors.Join(tx.PutMark("a", []byte("y")), errors.New("no")) })
	if n := d.Syncs() - before; n != 0 {
		t.Errorf("reading and giving up took %d syncs, want 0", n)
	}
}

func TestAbandonCommitsNothingMore(t *testing.T) {
	path := newFile(t)
	d, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	update(t, d, func(tx *Tx) error { return tx.PutMark("a", []byte("committed")) })
	inside, abandoned, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- d.Update(func(tx *Tx) error {
			close(inside)
			<-abandoned
			return tx.PutMark("a", []byte("lost"))
		})
	}()
	<-inside
	gone := make(chan struct{})
	go func() { d.Abandon(); close(gone) }()
	for !d.abandoned.Load() {
		runtime.Gosched()
	}
	close(abandoned)
	wantErr(t, <-done, store.ErrClosed)
	<-gone
	wantErr(t, d.Update(func(*Tx) error { return nil }), store.ErrClosed)
	again, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	wantMark(t, again, "a", []byte("committed"))
}

func TestTransactionEndsWithItsFunction(t *testing.T) {
	d := newDB(t)
	var kept *Tx
	view(t, d, func(tx *Tx) error { kept = tx; return nil })
	_, err := kept.Mark("a")
	wantErr(t, err, store.ErrClosed)
	view(t, d, func(tx *Tx) error {
		wantErr(t, tx.PutMark("a", []byte("x")), store.ErrReadOnly)
		return nil
	})
}

func TestWriteToCopiesTheLastCommit(t *testing.T) {
	d := newDB(t)
	update(t, d, func(tx *Tx) error { return tx.PutMark("a", []byte("x")) })
	var buf bytes.Buffer
	if n, err := d.WriteTo(&buf); err != nil || n != int64(buf.Len()) {
		t.Fatalf("copied %d of %d bytes: %v", n, buf.Len(), err)
	}
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	wantMark(t, c, "a", []byte("x"))
	mustVerify(t, c)
}

func TestClosedCatalogue(t *testing.T) {
	d, err := Open(newFile(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	wantErr(t, d.View(func(*Tx) error { return nil }), store.ErrClosed)
	wantErr(t, d.Update(func(*Tx) error { return nil }), store.ErrClosed)
}

func TestFullFileSystemIsTold(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		full bool
	}{
		{"write", &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, true},
		{"quota", &fs.PathError{Op: "write", Path: "x", Err: syscall.EDQUOT}, true},
		{"sync", syscall.ENOSPC, false},
		{"broken disk", &fs.PathError{Op: "write", Path: "x", Err: syscall.EIO}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := errors.Is(classify(c.err), store.ErrNoSpace); got != c.full {
				t.Errorf("out of space: %v, want %v", got, c.full)
			}
		})
	}
}

// TestFailedCommitStopsUpdates: after a failed write or sync nobody knows what the
// file holds, so nothing may be built on it.
func TestFailedCommitStopsUpdates(t *testing.T) {
	path := newFile(t)
	d, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	update(t, d, func(tx *Tx) error { return tx.PutMark("a", []byte("old")) })
	if err := d.file.Close(); err != nil { // the next write fails
		t.Fatal(err)
	}
	put := func(tx *Tx) error { return tx.PutMark("a", []byte("new")) }
	wantErr(t, d.Update(put), fs.ErrClosed, path)
	ran := false
	wantErr(t, d.Update(func(tx *Tx) error { ran = true; return put(tx) }), fs.ErrClosed, path, "earlier failure")
	if ran {
		t.Error("a change was begun after a failed commit")
	}
	wantMark(t, d, "a", []byte("old"))
	d.Abandon()
	if d, err = Open(path, Options{}); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	wantMark(t, d, "a", []byte("old"))
	update(t, d, put)
}
