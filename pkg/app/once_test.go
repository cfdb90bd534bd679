package app

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// TestInitOnce: a directory becomes a store once; a disk that comes back empty does not.
func TestInitOnce(t *testing.T) {
	dir := shortDir(t)
	data, record := filepath.Join(dir, "data"), filepath.Join(dir, "record", "store")
	cfg := Config{Data: data, InitOnce: record}
	if _, err := startStore(t, cfg); !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "does not exist") {
		t.Fatalf("without the directory, which is where a disk is mounted: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(data, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	r := mustStart(t, cfg)
	uuid := r.serving.UUID
	r.stop()
	r = mustStart(t, cfg)
	r.stop()
	if r.serving.UUID != uuid {
		t.Fatalf("store %s became %s", uuid, r.serving.UUID)
	}
	if got, err := os.ReadFile(record); err != nil || string(got) != uuid+"\n" {
		t.Fatalf("record %q, %v", got, err)
	}

	// A store without a record, as after a crash before it was written, is recorded.
	if err := os.Remove(record); err != nil {
		t.Fatal(err)
	}
	mustStart(t, cfg).stop()
	if err := os.Rename(data, data+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := startStore(t, cfg); !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), uuid) || !strings.Contains(err.Error(), record) {
		t.Fatalf("the disk is not mounted: %v", err)
	}
	if left, err := os.ReadDir(data); err != nil || len(left) != 0 {
		t.Fatalf("the directory was touched: %v, %v", left, err)
	}

	// Another store in its place is served, and both are on record.
	other := mustStart(t, Config{Data: filepath.Join(dir, "other"), Init: true})
	other.stop()
	moved := mustStart(t, Config{Data: filepath.Join(dir, "other"), InitOnce: record})
	moved.stop()
	if got, err := os.ReadFile(record); err != nil || string(got) != uuid+"\n"+other.serving.UUID+"\n" {
		t.Fatalf("record %q, %v", got, err)
	}
}

// TestInitOnceSparesWhatIsThere: a directory with files in it is never made a store.
func TestInitOnceSparesWhatIsThere(t *testing.T) {
	dir := shortDir(t)
	data := filepath.Join(dir, "data")
	file := filepath.Join(data, "layers", "1.data")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Data: data, InitOnce: filepath.Join(dir, "record")}
	if _, err := startStore(t, cfg); !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), file) {
		t.Fatalf("layers without a catalogue: %v", err)
	}
	// What an attempt that was cut short leaves behind is no obstacle.
	if err := os.Rename(file, filepath.Join(data, "catalogue.db.new")); err != nil {
		t.Fatal(err)
	}
	mustStart(t, cfg).stop()
	if _, err := startStore(t, Config{Data: data, Init: true, InitOnce: cfg.InitOnce}); !errors.Is(err, store.ErrInvalid) {
		t.Fatalf("both ways at once: %v", err)
	}
}

// TestUnwritableRecord: volumes come before the record of their store.
func TestUnwritableRecord(t *testing.T) {
	dir := shortDir(t)
	blocked := filepath.Join(dir, "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	mustStart(t, Config{Data: data, Init: true}).stop()
	r := mustStart(t, Config{Data: data, InitOnce: filepath.Join(blocked, "record")})
	defer r.stop()
	st, err := dial(t, data).Status(t.Context())
	if err != nil || len(st.Warnings) == 0 || !strings.Contains(strings.Join(st.Warnings, "\n"), blocked) {
		t.Fatalf("warnings %q, %v", st.Warnings, err)
	}
}

// TestInitOnceOfGateway: the sockets in its directory are no obstacle, the record is.
func TestInitOnceOfGateway(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, apiSocket), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o := once{dir: dir, record: filepath.Join(dir, "record"), elsewhere: true}
	if err := o.first(); err != nil {
		t.Errorf("there was none: %v", err)
	}
	if err := o.keep("u1"); err != nil {
		t.Fatal(err)
	}
	if err := o.first(); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("there was one: %v", err)
	}
	o.elsewhere = false
	if err := o.empty(dir); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("a file in the directory of an embedded store: %v", err)
	}
}

// publications are what a store has published.
type publications struct {
	store.Publisher
	list []store.Publication
}

func (p *publications) Publications(context.Context, store.ID) ([]store.Publication, error) {
	return p.list, nil
}

func TestReturning(t *testing.T) {
	pubs := &publications{list: []store.Publication{{ID: "a", Node: "n1", Epoch: 1}, {ID: "a", Node: "n2", Epoch: 2}, {ID: "b", Node: "n2", Epoch: 1}}}
	now := time.Unix(1000, 0)
	begin := func(timeout time.Duration) *returning {
		r, err := newReturning(t.Context(), pubs, timeout)
		if err != nil {
			t.Fatal(err)
		}
		r.now = func() time.Time { return now }
		r.until = now.Add(timeout)
		return r
	}
	if err := begin(0).ready(t.Context()); err != nil {
		t.Errorf("nobody is waited for: %v", err)
	}
	r := begin(time.Minute)
	if err := r.ready(t.Context()); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "n1, n2") {
		t.Errorf("nobody is back: %v", err)
	}
	pubs.list[0].Connected, pubs.list[2].Connected = true, true
	if err := r.ready(t.Context()); err == nil || strings.Contains(err.Error(), "n1") {
		t.Errorf("n2 is away: %v", err)
	}
	now = now.Add(2 * time.Minute)
	late := begin(time.Minute)
	if err := r.ready(t.Context()); err != nil {
		t.Errorf("time is over: %v", err)
	}
	// What is withdrawn, and what is published after the start, is not waited for.
	pubs.list[1].Epoch = 3
	if err := late.ready(t.Context()); err != nil {
		t.Errorf("all that were there are back: %v", err)
	}
	pubs.list[0].Connected = false
	if err := late.ready(t.Context()); err != nil {
		t.Errorf("it is ready for good: %v", err)
	}
}

// TestReadyWhenBack: a store that was started anew is ready when the node that had a
// volume of it is no longer waited for.
func TestReadyWhenBack(t *testing.T) {
	data := filepath.Join(shortDir(t), "data")
	r := mustStart(t, Config{Data: data, Init: true})
	c := dial(t, data)
	img, err := c.Create(t.Context(), store.Spec{Name: "img", Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Publish(t.Context(), img.ID, "n1", store.AccessWrite); err != nil {
		t.Fatal(err)
	}
	r.stop()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	r = mustStart(t, Config{Data: data, ReturnTimeout: time.Hour, Web: Web{Address: addr}})
	defer r.stop()
	ready := func() (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + addr + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	if code, text := ready(); code != http.StatusServiceUnavailable || !strings.Contains(text, "n1") {
		t.Errorf("n1 is away: %d %s", code, text)
	}
	if err := dial(t, data).Unpublish(t.Context(), img.ID, "n1"); err != nil {
		t.Fatal(err)
	}
	if code, text := ready(); code != http.StatusOK {
		t.Errorf("nobody is waited for: %d %s", code, text)
	}
}
