package nbd

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/pki"
)

// forLibnbd puts the files of a role where libnbd looks for them.
func forLibnbd(t *testing.T, f pki.Files) string {
	t.Helper()
	dir := t.TempDir()
	for from, name := range map[string]string{f.CA: "ca-cert.pem", f.Cert: "client-cert.pem", f.Key: "client-key.pem"} {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// GnuTLS at the other end, with the certificates that strata makes.
func TestInteropTLS(t *testing.T) {
	r := newRig(t, testSize, Config{})
	dir := filepath.Join(t.TempDir(), "pki")
	if err := pki.Init(dir, pki.Terms{Years: 1, CAYears: 2, Hosts: []string{"localhost"}}); err != nil {
		t.Fatal(err)
	}
	r.pki = dir
	target := r.tcp()
	_, port, err := net.SplitHostPort(target.Address)
	if err != nil {
		t.Fatal(err)
	}
	certs := forLibnbd(t, pki.RoleFiles(dir, pki.RoleOperator))
	uri := "nbds://localhost:" + port + "/disk?tls-certificates=" + url.QueryEscape(certs)
	if out := tool(t, "nbdinfo", uri); !strings.Contains(out, "TLS 1.3") && !strings.Contains(out, "with TLS") {
		t.Errorf("nbdinfo says\n%s", out)
	}
	r.d.Write([]byte("strata over GnuTLS"), 100<<10, false)
	file := filepath.Join(t.TempDir(), "copy")
	tool(t, "nbdcopy", uri, file)
	got, err := os.ReadFile(file)
	if err != nil || int64(len(got)) != testSize || string(got[100<<10:100<<10+18]) != "strata over GnuTLS" {
		t.Errorf("nbdcopy copied %d bytes, %v", len(got), err)
	}
	tool(t, "nbdcopy", file, uri)
}
