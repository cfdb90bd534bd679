package export

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
)

// format is what the store knows of the rig's image.
func (r *rig) format() store.Format {
	r.t.Helper()
	i, err := r.src.Stat(r.patience, r.img.ID)
	if err != nil {
		r.t.Fatal(err)
	}
	return i.Format
}

// A tool that changes nothing, and a node, which tells by itself what it makes, leave an
// unused image unused.
func TestLookingLeavesAnImageUnused(t *testing.T) {
	r := newRig(t, Config{})
	c := r.dial(Name(r.publish("n1", store.AccessWrite), 1))
	if _, err := c.WriteAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	if err := r.reg.Unpublish(r.patience, r.img.ID, ""); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ro/img", "img"} {
		c := r.dial(name)
		if _, err := c.ReadAt(make([]byte, 4096), 0); err != nil {
			t.Fatal(err)
		}
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.format(); got != store.FormatNone {
		t.Errorf("the format is %q", got)
	}
}

// What a tool has changed may hold anything, however it was changed. Only the first change
// of a session costs a change of the catalogue.
func TestToolsMakeTheFormatUnknown(t *testing.T) {
	for name, change := range map[string]func(c *nbd.Client) error{
		"write":   func(c *nbd.Client) error { _, err := c.WriteAt(make([]byte, 512), 512); return err },
		"zero":    func(c *nbd.Client) error { return c.Zero(0, 4096, true) },
		"discard": func(c *nbd.Client) error { return c.Trim(0, 4096) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			var modified atomic.Int64
			r.src.onModify = func() error { modified.Add(1); return nil }
			c := r.dial("img")
			for range 3 {
				if err := change(c); err != nil {
					t.Fatal(err)
				}
				if got := r.format(); got != store.FormatUnknown {
					t.Errorf("the format is %q", got)
				}
			}
			if n := modified.Load(); n != 1 {
				t.Errorf("it was recorded %d times", n)
			}
		})
	}
}

// A file system that is known stays known: a tool may repair it.
func TestToolsKeepAKnownFormat(t *testing.T) {
	r := newRig(t, Config{})
	for _, f := range []store.Format{store.FormatBegun, "ext4"} {
		if _, err := r.src.Modify(r.patience, r.img.ID, store.Change{Format: &f}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.dial("img").WriteAt(make([]byte, 512), 0); err != nil {
		t.Fatal(err)
	}
	if got := r.format(); got != "ext4" {
		t.Errorf("the format is %q", got)
	}
}

// No byte is written before it is recorded that there may be one, so that a crash at any
// point leaves no image that looks unused and is not. Writes at the same time wait for the
// same record.
func TestUnknownIsRecordedBeforeTheWrite(t *testing.T) {
	r := newRig(t, Config{})
	var recorded atomic.Bool
	r.src.onWrite = func([]byte, int64) error {
		if !recorded.Load() || r.format() != store.FormatUnknown {
			t.Error("a write came before the record")
		}
		return nil
	}
	entered, release := make(chan struct{}), make(chan struct{})
	r.src.onModify = func() error {
		close(entered)
		<-release
		recorded.Store(true)
		return nil
	}
	c := r.dial("img")
	var writes sync.WaitGroup
	for i := range int64(4) {
		writes.Go(func() {
			if _, err := c.WriteAt(make([]byte, 128<<10), i<<20); err != nil {
				t.Error(err)
			}
		})
	}
	<-entered
	wait(20 * time.Millisecond)
	if n := r.src.active.Load(); n != 0 {
		t.Errorf("%d writes are under way before the record", n)
	}
	close(release)
	writes.Wait()
}

// Where it cannot be recorded, nothing is written, and the next write tries again.
func TestUnrecordedWritesFail(t *testing.T) {
	r := newRig(t, Config{})
	var mended atomic.Bool
	r.src.onModify = func() error {
		if mended.Load() {
			return nil
		}
		return errors.New("no room in the catalogue")
	}
	var written atomic.Int64
	r.src.onWrite = func([]byte, int64) error { written.Add(1); return nil }
	c := r.dial("img")
	if _, err := c.WriteAt(make([]byte, 512), 0); !errors.Is(err, nbd.EIO) {
		t.Errorf("a write that cannot be recorded: %v", err)
	}
	if err := c.Trim(0, 4096); !errors.Is(err, nbd.EIO) {
		t.Errorf("a discard that cannot be recorded: %v", err)
	}
	if err := c.Zero(0, 4096, false); !errors.Is(err, nbd.EIO) {
		t.Errorf("zeroes that cannot be recorded: %v", err)
	}
	if n := written.Load(); n != 0 || r.format() != store.FormatNone {
		t.Errorf("%d writes were carried out, the format is %q", n, r.format())
	}
	mended.Store(true)
	if _, err := c.WriteAt(make([]byte, 512), 0); err != nil || written.Load() != 1 || r.format() != store.FormatUnknown {
		t.Errorf("later: %v, %d writes, the format is %q", err, written.Load(), r.format())
	}
}
