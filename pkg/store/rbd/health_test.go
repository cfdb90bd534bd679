package rbd

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
)

func TestMonitorAddresses(t *testing.T) {
	for setting, want := range map[string][]string{
		"":                 nil,
		"v2:10.0.0.1:3300": {"10.0.0.1:3300"},
		"[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0]": {"10.0.0.1:3300", "10.0.0.1:6789"},
		"10.0.0.1:6789, mon2.example":             {"10.0.0.1:6789", "mon2.example:3300", "mon2.example:6789"},
		"[v2:[fd00::1]:3300/0]":                   {"[fd00::1]:3300"},
	} {
		if got := monitorAddresses(setting); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %q, want %q", setting, got, want)
		}
	}
}

func TestSilenceIsExplained(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := l.Addr().String()
	closed, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := closed.Addr().String()
	closed.Close()
	defer l.Close()
	got := explainSilence(t.Context(), "v2:"+open+","+gone)
	for _, want := range []string{open + " takes connections and does not answer", gone + ": connect: connection refused"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q does not say %q", got, want)
		}
	}
}

// TestFilesAreChecked: what is wrong with files is told without asking the cluster.
func TestFilesAreChecked(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const keyring = "[client.other]\n key = AQAB==\n[client.one]\n\tkey = AQAA==\n\tcaps mon = \"profile rbd\"\n[client.none]\n"
	for want, p := range map[string]Options{
		"":                         {User: "one", Config: map[string]string{"keyring": write("keyring", keyring)}},
		"has no key of client.two": {User: "two", Config: map[string]string{"keyring": filepath.Join(dir, "keyring")}},
		"no key of client.none":    {User: "none", Config: map[string]string{"keyring": filepath.Join(dir, "keyring")}},
		"the keyring cannot be":    {User: "one", Config: map[string]string{"keyring": filepath.Join(dir, "missing")}},
		"the ceph.conf cannot be":  {User: "one", ConfigFile: filepath.Join(dir, "missing")},
		"key file " + write("empty", " \n") + " is empty": {User: "one", Config: map[string]string{"keyfile": filepath.Join(dir, "empty")}},
	} {
		err := p.files()
		var f *ProbeError
		switch {
		case want == "" && err != nil:
			t.Errorf("%+v: %v", p, err)
		case want != "" && (!errors.As(err, &f) || f.Fault != FaultConfig || !errors.Is(err, store.ErrInvalid) || !strings.Contains(f.Text, want)):
			t.Errorf("%+v: got %v, want %q", p, err, want)
		}
	}
}
