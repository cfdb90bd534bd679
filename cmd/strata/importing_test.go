package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// killedImport leaves what an import leaves that gets SIGKILL half-way.
func killedImport(t *testing.T, b *bench, name string) {
	t.Helper()
	fifo := filepath.Join(b.dir, "fifo-"+name)
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	source, err := os.OpenFile(fifo, os.O_RDWR, 0) // so that it never ends
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	t.Setenv(storeEnv, b.dir)
	cmd, _ := process(t, "strata", "import", fifo, name)
	go func() { _, _ = source.Write(content(1 << 20)) }() // as much as is taken before the kill
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := b.mem.Lookup(t.Context(), name)
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("the import makes no image")
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
}

// An import that is killed leaves an image that nobody takes for whole.
func TestKilledImport(t *testing.T) {
	b := newBench(t)
	data := content(1 << 20)
	src := b.file("src", data)
	b.must("import", src, "whole")
	killedImport(t, b, "img")
	for _, args := range [][]string{{"ls"}, {"ls", "-l"}} {
		r := b.run(args...)
		if r.code != 0 || !strings.Contains(r.err, "the import of img has not ended") || strings.Contains(r.err, "whole") {
			t.Errorf("%v: %+v", args, r)
		}
	}
	if out := b.must("ls", "-l"); strings.Count(out, importingState) != 1 {
		t.Errorf("ls -l says\n%s", out)
	}
	r := b.run("import", src, "img")
	if r.code == 0 || !strings.Contains(r.err, "has not ended") || !strings.Contains(r.err, "strata rm img") {
		t.Errorf("importing it again: %+v", r)
	}
	if r := b.run("import", src, "whole"); r.code == 0 || strings.Contains(r.err, "has not ended") {
		t.Errorf("importing another again: %+v", r)
	}
	b.must("rm", "img")
	b.must("import", src, "img")
	b.sameAs("img", data)
	if r := b.run("ls", "-l"); r.err != "" || strings.Contains(r.out, importingState) {
		t.Errorf("at the end: %+v", r)
	}
	err := b.mem.Notes(t.Context(), importNotes, func(key, value string) error {
		t.Errorf("the note %s (%s) is left", key, value)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Imports that fail leave neither image nor note.
func TestFailedImportLeavesNoMark(t *testing.T) {
	b := newBench(t)
	if r := b.run("import", b.file("empty", nil), "img"); r.code == 0 {
		t.Errorf("an empty source: %+v", r)
	}
	if r := b.runWith(strings.NewReader(""), "import", "-", "img"); r.code == 0 {
		t.Errorf("an empty stream: %+v", r)
	}
	b.nothing()
	err := b.mem.Notes(t.Context(), importNotes, func(key, _ string) error {
		t.Errorf("the note %s is left", key)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
