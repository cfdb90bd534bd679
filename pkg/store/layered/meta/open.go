package meta

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/strata-csi/strata/pkg/store"
)

// Format is the version of the format that this program writes. A change of any file of a
// store raises it, also one of a layer or an index.
const Format = 1

const (
	lockPoll = 20 * time.Millisecond
	fileMode = 0o600
	// mapSize is the address space taken at once, in bytes: some 200,000 images.
	mapSize = 256 << 20
	// growStep is by how much the file grows, in bytes; growing costs a sync.
	growStep = 256 << 10
)

// Create makes a new catalogue for the store uuid. It appears under its name whole
// and durable or not at all. store.ErrConflict if path exists.
func Create(path, uuid string) (err error) {
	if err := checkKey("store UUID", uuid); err != nil {
		return err
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("create catalogue %s: %w", path, store.ErrConflict)
	}
	// A leftover of a crashed Create is overwritten; the final link decides who won.
	part := path + ".new"
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("create catalogue %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, removeIfThere(part)) }()
	if err := writeEmpty(part, uuid); err != nil {
		return fmt.Errorf("create catalogue %s: %w", path, err)
	}
	if err := os.Link(part, path); err != nil {
		if errors.Is(err, os.ErrExist) {
			err = store.ErrConflict
		}
		return fmt.Errorf("create catalogue %s: %w", path, err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("create catalogue %s: %w", path, err)
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func writeEmpty(path, uuid string) (err error) {
	b, err := bolt.Open(path, fileMode, &bolt.Options{Timeout: lockPoll, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	return b.Update(func(tx *bolt.Tx) error {
		for k := range bucketCount {
			if _, err := tx.CreateBucket([]byte(k.String())); err != nil {
				return err
			}
		}
		t := &Tx{b: tx}
		return errors.Join(
			t.putRow(bState, []byte(keyNext), layerKey(1)),
			t.putRow(bState, []byte(keyReserved), layerKey(1)),
			t.putRow(bFormat, []byte(keyUUID), []byte(uuid)),
			t.put(bFormat, []byte(keyVersion), []byte(strconv.Itoa(Format))))
	})
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Open opens an existing catalogue. store.ErrNotFound if there is none,
// store.ErrInUse if another process (or DB) holds it, store.ErrUnsupported for
// another format version, store.ErrCorrupt for a damaged file.
func Open(path string, o Options) (*DB, error) {
	d := &DB{path: path, readOnly: o.ReadOnly, beforeCommit: o.BeforeCommit}
	if err := d.openFile(o); err != nil {
		return nil, fmt.Errorf("open catalogue %s: %w", path, err)
	}
	if err := d.View(d.readFormat); err != nil {
		return nil, errors.Join(fmt.Errorf("open catalogue %s: %w", path, err), d.Close())
	}
	return d, nil
}

// ReadFormat returns the format version of a catalogue, whether this program knows it or
// not. Nothing is changed. Errors as of Open.
func ReadFormat(path string) (version int, err error) {
	d := &DB{path: path, readOnly: true}
	if err := d.openFile(Options{ReadOnly: true}); err != nil {
		return 0, fmt.Errorf("read the format of catalogue %s: %w", path, err)
	}
	err = d.View(func(t *Tx) error {
		version, err = formatOf(t)
		return err
	})
	if err := errors.Join(err, d.Close()); err != nil {
		return 0, fmt.Errorf("read the format of catalogue %s: %w", path, err)
	}
	return version, nil
}

// CheckFormat tells whether this program works with a format version: store.ErrUnsupported,
// saying what to do, if not.
func CheckFormat(version int) error {
	switch {
	case version > Format:
		return fmt.Errorf("it has format version %d, and this program knows %d: use the newer strata that has written it, or a newer one yet: %w", version, Format, store.ErrUnsupported)
	case version < Format:
		return fmt.Errorf("it has format version %d, and this program works with %d: bring it there with strata upgrade-format: %w", version, Format, store.ErrUnsupported)
	}
	return nil
}

func (d *DB) openFile(o Options) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		// What a failed open leaves behind would keep the lock.
		if err != nil && d.file != nil {
			_ = d.file.Close() // closed already unless the format's code gave up half-way
		}
	}()
	defer guard("open", bFormat, &err)
	d.bolt, err = bolt.Open(d.path, fileMode, &bolt.Options{
		ReadOnly:     o.ReadOnly,
		NoSync:       o.NoSync,
		FreelistType: bolt.FreelistMapType,
		// The mapping cannot grow while a transaction reads, so a long View would hold
		// up an Update, and that every new View. Address space costs nothing.
		InitialMmapSize: mapSize,
		OpenFile: func(path string, flag int, mode os.FileMode) (*os.File, error) {
			f, err := openLocked(path, flag, mode, o)
			d.file = f
			return f, err
		},
	})
	switch {
	case err == nil:
		d.bolt.AllocSize = growStep
		return nil
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return fmt.Errorf("%v: %w", err, store.ErrCorrupt)
	}
	return err
}

// openLocked opens the file, which must exist, takes its lock and walks its
// structure, so that the format's code meets no surprise. The code takes the same
// lock again on the same handle, which succeeds at once.
func openLocked(path string, flag int, mode os.FileMode, o Options) (f *os.File, err error) {
	f, err = os.OpenFile(path, flag&^os.O_CREATE, mode)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%v: %w", err, store.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close() // nothing was written
			f = nil
		}
	}()
	if err = lock(f, o); err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err = inspect(f, st.Size()); err != nil {
		return nil, err
	}
	return f, nil
}

// lock polls, because a blocking flock cannot be given up.
func lock(f *os.File, o Options) error {
	how := syscall.LOCK_EX
	if o.ReadOnly {
		how = syscall.LOCK_SH
	}
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for end := time.Now().Add(o.Timeout); ; <-poll.C {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return fmt.Errorf("lock: %w", err)
		case !time.Now().Before(end):
			return fmt.Errorf("another process has it open: %w", store.ErrInUse)
		}
	}
}

// formatOf reads the format version of a catalogue.
func formatOf(t *Tx) (int, error) {
	if t.b.Bucket([]byte(bFormat.String())) == nil {
		return 0, fmt.Errorf("not a catalogue of strata: %w", store.ErrCorrupt)
	}
	text, err := t.get(bFormat, []byte(keyVersion))
	if err != nil {
		return 0, err
	}
	version, err := strconv.Atoi(string(text))
	if err != nil {
		return 0, fmt.Errorf("format version %q is not a number: %w", text, store.ErrCorrupt)
	}
	return version, nil
}

func (d *DB) readFormat(t *Tx) error {
	version, err := formatOf(t)
	if err != nil {
		return err
	}
	if err := CheckFormat(version); err != nil {
		return err
	}
	uuid, err := t.getRow(bFormat, []byte(keyUUID))
	if err != nil {
		return err
	}
	if len(uuid) == 0 {
		return fmt.Errorf("it names no store UUID: %w", store.ErrCorrupt)
	}
	d.uuid = string(uuid)
	for b := range bucketCount {
		if _, err := t.bucket(b); err != nil {
			return err
		}
	}
	_, _, err = t.Reserved()
	return err
}
