package app

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
)

// get fetches a page of the server.
func get(t *testing.T, s *httptest.Server, path string) (int, string) {
	t.Helper()
	resp, err := http.Get(s.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestWebTellsHealthAndReadiness(t *testing.T) {
	var notReady error
	w := newWeb(Web{}, func(context.Context) error { return notReady })
	s := httptest.NewServer(w.routes())
	defer s.Close()
	if code, body := get(t, s, "/readyz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("ready: %d %q", code, body)
	}
	notReady = errors.New("the catalogue is being opened")
	if code, body := get(t, s, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "catalogue") {
		t.Errorf("not ready: %d %q", code, body)
	}
	if code, _ := get(t, s, "/healthz"); code != http.StatusOK {
		t.Errorf("alive: %d", code)
	}
	if code, _ := get(t, s, "/debug/pprof/"); code != http.StatusNotFound {
		t.Errorf("profiles without being asked for: %d", code)
	}
	w = newWeb(Web{Profile: true}, w.ready)
	p := httptest.NewServer(w.routes())
	defer p.Close()
	if code, _ := get(t, p, "/debug/pprof/"); code != http.StatusOK {
		t.Errorf("profiles: %d", code)
	}
}

func TestStoreMetrics(t *testing.T) {
	mem := memstore.New()
	defer mem.Close()
	ctx := t.Context()
	base, err := mem.Create(ctx, store.Spec{Name: "base", Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mem.Create(ctx, store.Spec{Name: "clone", Parent: base.ID}); err != nil {
		t.Fatal(err)
	}
	m := newStoreMetrics(mem)
	now := time.Now()
	m.now = func() time.Time { return now }
	w := newWeb(Web{}, nil)
	w.registry.MustRegister(m, buildInfo("store", "v1"))
	s := httptest.NewServer(w.routes())
	defer s.Close()
	_, body := get(t, s, "/metrics")
	for _, line := range []string{
		"strata_store_up 1", "strata_store_images 2", `strata_store_bytes{kind="nominal"} 2.097152e+06`,
		`strata_store_clone_depth_bucket{le="0"} 1`, `strata_store_clone_depth_bucket{le="1"} 2`,
		"strata_store_flatten_backlog_jobs 0", `strata_build_info{process="store",version="v1"} 1`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("no line %q in\n%s", line, body)
		}
	}

	if _, err := mem.Create(ctx, store.Spec{Name: "third", Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	const before, after = `strata_store_bytes{kind="nominal"} 2.097152e+06`, `strata_store_bytes{kind="nominal"} 3.145728e+06`
	if _, body = get(t, s, "/metrics"); !strings.Contains(body, before) {
		t.Error("accounts were made twice within a minute")
	}
	now = now.Add(usageAge)
	if _, body = get(t, s, "/metrics"); !strings.Contains(body, after) {
		t.Error("accounts were not made anew after a minute")
	}

	mem.Close()
	if _, body = get(t, s, "/metrics"); !strings.Contains(body, "strata_store_up 0") {
		t.Error("a closed store is up")
	}
}
