package vfs

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestNextDataPassesOverHoles(t *testing.T) {
	mem := NewMem()
	if err := mem.MkdirAll("d", 0o700); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, fs := range map[string]struct {
		FS
		dir string
	}{"os": {OS(), dir}, "mem": {mem, "d"}, "direct": {NewDirect(OS(), func(string) bool { return true }, nil), dir}, "pool": {NewPool(OS(), 1), dir}, "faulty": {NewFaulty(mem, func(Op) error { return nil }), "d"}} {
		t.Run(name, func(t *testing.T) {
			f, err := fs.OpenFile(filepath.Join(fs.dir, name), os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			const far = 1 << 30
			if _, err := f.WriteAt([]byte("x"), far); err != nil {
				t.Fatal(err)
			}
			if at, err := NextData(f, 4096); err != nil || at > far || at < far-(1<<20) {
				t.Errorf("the data at %d is found at %d, %v", far, at, err)
			}
			if at, err := NextData(f, far); err != nil || at != far {
				t.Errorf("from the data itself: %d, %v", at, err)
			}
			if at, err := NextData(f, far+8192); !errors.Is(err, io.EOF) {
				t.Errorf("beyond the data: %d, %v, want io.EOF", at, err)
			}
		})
	}
}
