package app

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
)

// A scrub is asked for over the API, and what it finds is told there.
func TestScrubOverTheAPI(t *testing.T) {
	dir := filepath.Join(shortDir(t), "data")
	r := mustStart(t, Config{Data: dir, Init: true, AllocUnit: 64 << 10, ScrubRate: 1 << 30})
	defer r.stop()
	c := dial(t, dir)
	img, d := newImage(t, c)
	if _, err := d.WriteAt(make([]byte, 4096), 8192); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Snapshot(t.Context(), img.ID, "s"); err != nil {
		t.Fatal(err)
	}
	scrub := func() error {
		job, err := c.StartScrub(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return c.WatchJob(t.Context(), job.ID, func(store.Job) error { return nil })
	}
	if err := scrub(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "layers", "0000000000000001.data"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{1}, 8192); err != nil {
		t.Fatal(err)
	}
	if err := scrub(); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "8192") {
		t.Errorf("the scrub of a store with a bad block answers %v", err)
	}
	if st, err := c.Status(t.Context()); err != nil || len(st.Faulty) != 1 || !strings.Contains(st.Faulty[0].Text, "8192") {
		t.Errorf("the status tells %+v, %v", st.Faulty, err)
	}
}

// A backend without a disk has nothing to scrub.
func TestScrubOfABackendThatCannot(t *testing.T) {
	dir := filepath.Join(shortDir(t), "data")
	r := mustStart(t, Config{Data: dir, Init: true, Backend: func(string) (store.Full, error) { return memstore.New(), nil }})
	defer r.stop()
	if _, err := dial(t, dir).StartScrub(t.Context()); !errors.Is(err, store.ErrUnsupported) {
		t.Errorf("answered %v", err)
	}
}
