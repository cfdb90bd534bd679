package storeapi

import (
	"errors"
	"net"
	"path/filepath"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
)

func TestParseAddress(t *testing.T) {
	dir := t.TempDir()
	sock := filepath.Join(dir, "other.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for in, want := range map[string]address{
		"/run/strata/api.sock":      {"unix", "/run/strata/api.sock"},
		"unix:/run/strata/api.sock": {"unix", "/run/strata/api.sock"},
		dir:                         {"unix", filepath.Join(dir, "api.sock")},
		"unix:" + dir:               {"unix", filepath.Join(dir, "api.sock")},
		sock:                        {"unix", sock},
		"localhost:10810":           {"tcp", "localhost:10810"},
		"[::1]:10810":               {"tcp", "[::1]:10810"},
	} {
		if got, err := parseAddress(in); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "nothing-here", "host:1:2"} {
		if got, err := parseAddress(in); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%q: %v, %v; want %v", in, got, err, store.ErrInvalid)
		}
	}
	t.Chdir(dir)
	if got, err := parseAddress("other.sock"); err != nil || got.network != "unix" {
		t.Errorf("a socket in the working directory: %v, %v", got, err)
	}
}

func TestPickEndpoint(t *testing.T) {
	unix, tcp := address{"unix", "/d/api.sock"}, address{"tcp", "10.0.0.7:10810"}
	all := []string{"nbd+unix:///?socket=/d/nbd.sock", "nbd://0.0.0.0:10809", "nbd://10.1.1.1:10809"}
	for _, c := range []struct {
		api       address
		endpoints []string
		want      string
	}{
		{unix, all, "nbd+unix:///?socket=/d/nbd.sock"},
		{unix, all[1:], "nbd://localhost:10809/"},
		{tcp, all, "nbd://10.0.0.7:10809/"},
		{tcp, all[2:], "nbd://10.1.1.1:10809/"},
		{tcp, []string{"nbd://[::]:10809"}, "nbd://10.0.0.7:10809/"},
	} {
		if got, err := pickEndpoint(c.api, c.endpoints); err != nil || got.String() != c.want {
			t.Errorf("%v from %v: %v, %v; want %v", c.api, c.endpoints, got, err, c.want)
		}
	}
	if _, err := pickEndpoint(tcp, all[:1]); !errors.Is(err, store.ErrUnsupported) {
		t.Errorf("only a socket of another machine: %v", err)
	}
	if _, err := pickEndpoint(tcp, []string{"http://x"}); err == nil {
		t.Error("an address that is not NBD was accepted")
	}
}
