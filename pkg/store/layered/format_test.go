package layered

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// setFormat makes a data directory one of another version. The catalogue holds the text of
// the version right behind its key.
func setFormat(t *testing.T, dir string, from, to byte) {
	t.Helper()
	path := filepath.Join(dir, catalogueFile)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.ReplaceAll(content, append([]byte("version"), from), append([]byte("version"), to))
	if bytes.Equal(changed, content) {
		t.Fatalf("no version %c in %s", from, path)
	}
	if err := os.WriteFile(path, changed, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestUpgradeFormat(t *testing.T) {
	dir := t.TempDir()
	if err := Init(dir, string(store.NewID())); err != nil {
		t.Fatal(err)
	}
	want := Format{Version: meta.Format, Current: meta.Format}
	content, err := os.ReadFile(filepath.Join(dir, catalogueFile))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := UpgradeFormat(dir); got != want || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if after, err := os.ReadFile(filepath.Join(dir, catalogueFile)); err != nil || string(after) != string(content) {
		t.Errorf("a directory of this format was changed: %v", err)
	}
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := UpgradeFormat(dir); !errors.Is(err, store.ErrInUse) {
		t.Errorf("while it is open: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := UpgradeFormat(t.TempDir()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of no store: %v", err)
	}
}

// A newer format is told and left as it is, by this and by an attempt to serve it.
func TestNewerFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := Init(dir, string(store.NewID())); err != nil {
		t.Fatal(err)
	}
	setFormat(t, dir, '1', '7')
	for range 2 {
		if got, err := ReadFormat(dir); got != (Format{Version: 7, Current: meta.Format}) || err != nil {
			t.Errorf("%+v, %v", got, err)
		}
		_, err := UpgradeFormat(dir)
		if !errors.Is(err, store.ErrUnsupported) || !strings.Contains(err.Error(), "format version 7") || !strings.Contains(err.Error(), "newer strata") || !strings.Contains(err.Error(), dir) {
			t.Errorf("upgrade: %v", err)
		}
		if _, err := Open(dir, Options{}); !errors.Is(err, store.ErrUnsupported) || !strings.Contains(err.Error(), "newer strata") {
			t.Errorf("open: %v", err)
		}
	}
	setFormat(t, dir, '7', '0')
	if _, err := UpgradeFormat(dir); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("a version that never was: %v", err)
	}
}
