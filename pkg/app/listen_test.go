package app

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/strata-csi/strata/pkg/pki"
	"github.com/strata-csi/strata/pkg/store"
)

func TestParseListen(t *testing.T) {
	t.Chdir("/tmp")
	for in, want := range map[string]listen{
		"tcp://0.0.0.0:10809": {"tcp", "0.0.0.0:10809"},
		"127.0.0.1:0":         {"tcp", "127.0.0.1:0"},
		"[::1]:5":             {"tcp", "[::1]:5"},
		":10809":              {"tcp", ":10809"},
		"unix:/run/x.sock":    {"unix", "/run/x.sock"},
		"unix:///run/x.sock":  {"unix", "/run/x.sock"},
		"unix:x.sock":         {"unix", "/tmp/x.sock"},
		"/run/x.sock":         {"unix", "/run/x.sock"},
		"./x.sock":            {"unix", "/tmp/x.sock"},
	} {
		if got, err := parseListen(in); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "host", "unix:", "unix://", "tcp://host", "1:2:3"} {
		if got, err := parseListen(in); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
}

// Without certificates, only who says so is served over a network in the clear.
func TestTCPIsLoopbackWithoutTLS(t *testing.T) {
	for addr, ok := range map[string]bool{
		"127.0.0.1:1": true, "127.9.9.9:1": true, "[::1]:1": true, "localhost:1": true, "unix:/x/y": true,
		"0.0.0.0:1": false, ":1": false, "[::]:1": false, "10.0.0.1:1": false, "example.org:1": false,
	} {
		for what, c := range map[string]Config{
			"API": {Data: "/d", API: []string{addr}},
			"NBD": {Data: "/d", NBD: []string{addr}},
		} {
			_, err := c.normal()
			if ok != (err == nil) || !ok && (!errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), "--insecure")) {
				t.Errorf("%s on %s: %v", what, addr, err)
			}
			c.Insecure = true
			if _, err := c.normal(); err != nil {
				t.Errorf("%s on %s with Insecure: %v", what, addr, err)
			}
			c.Insecure, c.TLS = false, pki.Files{CA: "a", Cert: "b", Key: "c"}
			if _, err := c.normal(); err != nil {
				t.Errorf("%s on %s with TLS: %v", what, addr, err)
			}
			c.Insecure = true
			if _, err := c.normal(); !errors.Is(err, store.ErrInvalid) {
				t.Errorf("%s on %s with TLS and Insecure: %v", what, addr, err)
			}
		}
	}
}

func TestConfigRefuses(t *testing.T) {
	for name, c := range map[string]Config{
		"no data":  {},
		"policy":   {Data: "/d", Policy: store.Policy{Soft: 9, Hard: 2}},
		"rate":     {Data: "/d", CopyRate: -1},
		"nbd addr": {Data: "/d", NBD: []string{"what"}},
	} {
		if _, err := c.normal(); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEveryCloserWaitsForTheFile: the process may end as soon as any of them returns.
func TestEveryCloserWaitsForTheFile(t *testing.T) {
	dir := shortDir(t)
	for range 200 {
		ln, err := bind(listen{"unix", filepath.Join(dir, "x.sock")})
		if err != nil {
			t.Fatal(err)
		}
		var closers sync.WaitGroup
		for range 3 {
			closers.Go(func() {
				if err := ln.Close(); err != nil {
					t.Error(err)
				}
				if _, err := os.Lstat(filepath.Join(dir, "x.sock")); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the file is still there: %v", err)
				}
			})
		}
		closers.Wait()
	}
}

// shortDir is a directory whose path leaves room for a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sapp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestBindUnix(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "x.sock")
	first, err := bind(listen{"unix", path})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if first.Addr().String() != path {
		t.Errorf("the address is %s", first.Addr())
	}
	if _, err := bind(listen{"unix", path}); !errors.Is(err, store.ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("a socket in use: %v", err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the first listener is gone: %v", err)
	}
	conn.Close()
	// A crash leaves the file behind.
	first.(*unixListener).UnixListener.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
	second, err := bind(listen{"unix", path})
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestBindUnixRefuses(t *testing.T) {
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := bind(listen{"unix", file}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a file: %v", err)
	}
	if b, _ := os.ReadFile(file); string(b) != "precious" {
		t.Error("the file was replaced")
	}
	long := filepath.Join(dir, strings.Repeat("x", 100))
	if _, err := bind(listen{"unix", long}); !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a long path: %v", err)
	}
	if _, err := bind(listen{"unix", filepath.Join(dir, "none", "x")}); err == nil {
		t.Error("a missing directory was accepted")
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestBindTCPInUse(t *testing.T) {
	first, err := bind(listen{"tcp", "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := bind(listen{"tcp", first.Addr().String()}); !errors.Is(err, store.ErrInUse) {
		t.Errorf("got %v", err)
	}
}
