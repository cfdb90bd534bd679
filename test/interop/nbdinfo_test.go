package interop

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

type nbdinfoExport struct {
	Name       string   `json:"export-name"`
	Size       int64    `json:"export-size"`
	ReadOnly   bool     `json:"is_read_only"`
	Rotational bool     `json:"is_rotational"`
	Cache      bool     `json:"can_cache"`
	FastZero   bool     `json:"can_fast_zero"`
	Flush      bool     `json:"can_flush"`
	FUA        bool     `json:"can_fua"`
	MultiConn  bool     `json:"can_multi_conn"`
	Trim       bool     `json:"can_trim"`
	Zero       bool     `json:"can_zero"`
	Minimum    int      `json:"block_size_minimum"`
	Preferred  int      `json:"block_size_preferred"`
	Maximum    int      `json:"block_size_maximum"`
	Contexts   []string `json:"contexts"`
}

func info(l *tool, args ...string) nbdinfoExport {
	l.t.Helper()
	var doc struct {
		Protocol   string          `json:"protocol"`
		Structured bool            `json:"structured"`
		Exports    []nbdinfoExport `json:"exports"`
	}
	out := l.run(append([]string{"--json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		l.t.Fatalf("nbdinfo: %v in %s", err, out)
	}
	if doc.Protocol != "newstyle-fixed" || !doc.Structured || len(doc.Exports) != 1 {
		l.t.Fatalf("nbdinfo: want one export, fixed newstyle, structured replies: %s", out)
	}
	return doc.Exports[0]
}

func TestNbdinfo(t *testing.T) {
	l := need(t, "nbdinfo")
	s := start(t)
	s.strata("create", "--size", "64M", "img")
	s.strata("snap", "create", "img@snap")

	t.Run("image", func(t *testing.T) {
		for _, uri := range []string{s.uri("img"), s.tcpURI("img")} {
			e := info(l, uri)
			if e.Size != 64*mib || e.ReadOnly || e.Rotational {
				t.Errorf("%s: %+v", uri, e)
			}
			if !e.Flush || !e.FUA || !e.Trim || !e.Zero || !e.FastZero || !e.Cache || !e.MultiConn {
				t.Errorf("%s: an ability is not offered: %+v", uri, e)
			}
			if e.Minimum > 4096 || e.Preferred < e.Minimum || int64(e.Maximum) != 32*mib {
				t.Errorf("%s: block sizes %d, %d, %d", uri, e.Minimum, e.Preferred, e.Maximum)
			}
			for _, want := range []string{"base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:snap"} {
				if !slices.Contains(e.Contexts, want) {
					t.Errorf("%s: context %s is not among %v", uri, want, e.Contexts)
				}
			}
		}
	})
	t.Run("snapshot is read-only", func(t *testing.T) {
		e := info(l, s.uri("img@snap"))
		if !e.ReadOnly || e.Trim || e.Zero || e.Size != 64*mib {
			t.Errorf("%+v", e)
		}
	})
	t.Run("list", func(t *testing.T) {
		out := l.run("--list", "nbd+unix://?socket="+s.socket())
		for _, want := range []string{`export="img"`, `export="img@snap"`} {
			if !strings.Contains(out, want) {
				t.Errorf("%s is missing in\n%s", want, out)
			}
		}
	})
	t.Run("unknown name", func(t *testing.T) {
		for _, name := range []string{"nothing", "img@nothing", "../img", "img@snap@snap", strings.Repeat("x", 4000)} {
			if out, err := l.try("--size", s.uri(name)); err == nil {
				t.Errorf("export %.20q is served: %s", name, out)
			}
		}
	})
	l.result("image, snapshot, list and refusals as announced")
}
