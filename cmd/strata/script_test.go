package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"github.com/strata-csi/strata/pkg/app"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
)

// updateEnv makes the scripts in testdata say what the program says.
const updateEnv = "STRATA_UPDATE_GOLDEN"

// bench is a store in this process and what a script runs against it.
type bench struct {
	t   *testing.T
	dir string
	mem *memstore.Store
	ids map[string]string
	// stop ends the store before the test does.
	stop func()
}

// newBench serves a memstore as the store process would.
func newBench(t *testing.T) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "scli") // short: a socket's path has little room
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, dir: dir, mem: memstore.New(), ids: make(map[string]string)}
	ready := make(chan struct{})
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), logr.Discard()))
	go func() {
		ended <- app.Store(ctx, app.Config{
			Data: dir, Node: "rack1", AllowUnsafe: true,
			Backend: func(string) (store.Full, error) { return b.mem, nil },
			Ready:   func(app.Serving) { close(ready) },
		})
	}()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("store process: %v", err)
		}
		os.RemoveAll(dir)
	})
	t.Cleanup(b.stop)
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		t.Fatalf("the store did not start: %v", err)
	}
	return b
}

// result is what a run of the tool gave.
type result struct {
	out, err string
	code     int
}

func (b *bench) run(args ...string) result { return b.runWith(nil, args...) }

func (b *bench) runWith(in io.Reader, args ...string) result {
	var out, err bytes.Buffer
	code := run(b.t.Context(), args, streams{in: in, out: &out, err: &err, env: func(name string) string {
		if name == storeEnv {
			return b.dir
		}
		return ""
	}})
	return result{out.String(), err.String(), code}
}

// must runs a verb that has to succeed and returns its output.
func (b *bench) must(args ...string) string {
	b.t.Helper()
	r := b.run(args...)
	if r.code != 0 {
		b.t.Fatalf("strata %s: exit code %d\n%s", strings.Join(args, " "), r.code, r.err)
	}
	return r.out
}

// write fills a range of an image with a byte.
func (b *bench) write(ref string, off, length int64, fill byte) {
	b.t.Helper()
	i, err := b.mem.Lookup(b.t.Context(), ref)
	if err != nil {
		b.t.Fatal(err)
	}
	d, err := b.mem.Open(b.t.Context(), i.ID)
	if err != nil {
		b.t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.WriteAt(bytes.Repeat([]byte{fill}, int(length)), off); err != nil {
		b.t.Fatal(err)
	}
}

var (
	idPattern      = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	timePattern    = regexp.MustCompile(`20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
	warningPattern = regexp.MustCompile(`(?s)  warning: [^\n]*\n|,\n  "warnings": \[.*?\]`)
	datePattern    = regexp.MustCompile(`\b20\d\d-\d\d-\d\d\b`)
	tokenPattern   = regexp.MustCompile(`\b[0-9a-f]{32}\b`)
)

// stable replaces what differs from run to run.
func (b *bench) stable(text string) string {
	text = idPattern.ReplaceAllStringFunc(text, func(id string) string {
		if b.ids[id] == "" {
			b.ids[id] = fmt.Sprintf("<id-%d>", len(b.ids)+1)
		}
		return b.ids[id]
	})
	text = timePattern.ReplaceAllString(text, "<time>")
	text = datePattern.ReplaceAllString(text, "<date>")
	text = tokenPattern.ReplaceAllString(text, "<token>")
	// Whether the threads of a test may be marked is a matter of the machine.
	text = warningPattern.ReplaceAllString(text, "")
	return strings.ReplaceAll(text, b.dir, "$DIR")
}

// command runs one line of a script and returns what is written below it.
func (b *bench) command(line string) string {
	words := strings.Fields(line)
	if words[0] == "write" { // write REF OFFSET LENGTH BYTE
		var n [3]int64
		for i := range n {
			var err error
			if n[i], err = strconv.ParseInt(words[2+i], 0, 64); err != nil {
				b.t.Fatal(err)
			}
		}
		b.write(words[1], n[0], n[1], byte(n[2]))
		return ""
	}
	for i := range words {
		words[i] = strings.ReplaceAll(words[i], "$DIR", b.dir)
	}
	r := b.run(words[1:]...)
	text := strings.ReplaceAll("\n"+r.out, "\n\n", "\n.\n")[1:]
	for line := range strings.Lines(r.err) {
		text += "! " + line
	}
	if r.code != 0 {
		text += fmt.Sprintf("exit %d\n", r.code)
	}
	return b.stable(text)
}

// TestScripts runs every script in testdata: commands behind "$ ", each followed by
// what it prints, with "! " before lines on standard error and "."
// for an empty line.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.script")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d scripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".script"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			b := newBench(t)
			var got strings.Builder
			for line := range strings.Lines(string(want)) {
				if strings.HasPrefix(line, "$ ") {
					got.WriteString(line + b.command(line[2:]))
				} else if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
					got.WriteString(line)
				}
			}
			if os.Getenv(updateEnv) != "" {
				if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got.String() != string(want) {
				t.Errorf("%s says otherwise; got\n%s", file, difference(string(want), got.String()))
			}
		})
	}
}

// difference shows the first lines in which two texts differ.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return fmt.Sprintf("line %d:\n- %s\n+ %s", i+1, strings.Join(w[i:min(len(w), i+6)], "\n- "), strings.Join(g[i:min(len(g), i+6)], "\n+ "))
		}
	}
	return fmt.Sprintf("%d lines instead of %d", len(g), len(w))
}
