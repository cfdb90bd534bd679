package stage

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/pkg/attach"
	"github.com/strata-csi/strata/pkg/store"
)

// recordVersion is of the format of a record's file: the JSON of record. A file of a
// newer version is refused as damaged.
const recordVersion = 1

// record is the durable memory of one volume. It holds the secret token.
type record struct {
	Version int    `json:"version"`
	Volume  string `json:"volume"`
	Phase   Phase  `json:"phase"`
	Ticket  Ticket `json:"ticket"`
	// Generation is the last one that may have been used, of this epoch.
	Generation uint64 `json:"generation"`
	// Attached tells that Index is known. Without it there may still be a device,
	// which its backend identifier tells.
	Attached  bool `json:"attached,omitempty"`
	Index     int  `json:"index,omitempty"`
	BlockSize int  `json:"blockSize,omitempty"`
	// Device is the path of its node.
	Device string `json:"device,omitempty"`
	// Size is what the device was last given, in bytes.
	Size int64 `json:"size,omitempty"`
	// Keyed tells that the link's key has a limit, KeyBase how many bytes the device had
	// moved when the link was made.
	Keyed   bool  `json:"keyed,omitempty"`
	KeyBase int64 `json:"keyBase,omitempty"`

	Staging    string     `json:"staging,omitempty"`
	MadeDir    bool       `json:"madeDir,omitempty"` // Staging was created here
	Capability Capability `json:"capability"`
	// FS is what is mounted at Staging; "" for raw devices.
	FS      string   `json:"fs,omitempty"`
	Targets []Target `json:"targets,omitempty"`

	// Fenced says why there will be no link any more; "" if not so.
	Fenced string `json:"fenced,omitempty"`

	// Mapped volumes were published by this node itself: Source is what to unpublish.
	Mapped bool     `json:"mapped,omitempty"`
	Source store.ID `json:"source,omitempty"`
	Ref    string   `json:"ref,omitempty"`
}

// device is the volume's device, as far as the record knows it.
func (r *record) device() attach.Device {
	return attach.Device{Index: r.Index, Path: r.Device, Backend: backendOf(r.Ticket), Size: r.Size, BlockSize: r.BlockSize}
}

// backendOf identifies what is behind a device: the image and the epoch, without the
// secret.
func backendOf(t Ticket) string { return fmt.Sprintf("%s%s:%d", attach.Prefix, t.Image, t.Epoch) }

func (r *record) clone() *record {
	c := *r
	c.Targets = append([]Target(nil), r.Targets...)
	return &c
}

// book keeps records in a directory, which it has for itself.
type book struct {
	dir  string
	lock *os.File
}

const (
	recordSuffix  = ".json"
	damagedSuffix = ".damaged"
)

// openBook makes the directory if need be and locks it against other processes.
func openBook(dir string) (*book, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the node's directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the node's directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is in use by another process; end it, or choose another directory: %w", dir, store.ErrInUse)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return &book{dir: dir, lock: lock}, nil
}

func (b *book) close() error { return b.lock.Close() }

// file is where the record of a volume is. Ids are not paths, so they are hashed.
func (b *book) file(volume string) string {
	sum := sha256.Sum256([]byte(volume))
	return filepath.Join(b.dir, hex.EncodeToString(sum[:16])+recordSuffix)
}

// load reads all records. Files that make no sense are put aside and told of; a
// process that cannot start because of one of them would hurt all other volumes.
func (b *book) load(damaged func(error)) ([]*record, error) {
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	var list []*record
	for _, e := range entries {
		path := filepath.Join(b.dir, e.Name())
		if strings.HasSuffix(e.Name(), ".tmp") {
			if err := os.Remove(path); err != nil {
				return nil, fmt.Errorf("remove an unfinished record: %w", err)
			}
			continue
		}
		if !strings.HasSuffix(e.Name(), recordSuffix) {
			continue
		}
		r, err := b.read(path)
		if err == nil {
			list = append(list, r)
			continue
		}
		if err := os.Rename(path, path+damagedSuffix); err != nil {
			return nil, fmt.Errorf("put a damaged record aside: %w", err)
		}
		damaged(fmt.Errorf("record %s was put aside: %w", path+damagedSuffix, err))
	}
	return list, nil
}

func (b *book) read(path string) (*record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := new(record)
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	switch {
	case r.Version > recordVersion:
		return nil, fmt.Errorf("version %d is newer than this program's %d: %w", r.Version, recordVersion, store.ErrUnsupported)
	case r.Version < 1 || r.Volume == "" || b.file(r.Volume) != path:
		return nil, fmt.Errorf("it is not the record of the volume it names: %w", store.ErrCorrupt)
	}
	return r, nil
}

// save makes the record durable. After an error either the old or the new one is.
func (b *book) save(r *record) error {
	r.Version = recordVersion
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("record of %s: %w", r.Volume, err)
	}
	path := b.file(r.Volume)
	if err := writeSynced(path+".tmp", data); err != nil {
		return fmt.Errorf("record of %s: %w", r.Volume, err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("record of %s: %w", r.Volume, err)
	}
	return b.syncDir()
}

func (b *book) remove(volume string) error {
	if err := os.Remove(b.file(volume)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("record of %s: %w", volume, err)
	}
	return b.syncDir()
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

func (b *book) syncDir() error {
	d, err := os.Open(b.dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", b.dir, err)
	}
	err = d.Sync()
	if e := d.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("sync %s: %w", b.dir, err)
	}
	return nil
}
