package pki

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestInitKeepsKeysSecret(t *testing.T) {
	dir := made(t, Terms{})
	keys := []string{filepath.Join(dir, CAKey)}
	for _, r := range Roles() {
		keys = append(keys, RoleFiles(dir, r).Key)
	}
	for _, path := range keys {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, st.Mode(), err)
		}
	}
}

func TestInitTouchesNothing(t *testing.T) {
	for _, name := range []string{CAFile, CAKey, "node"} {
		dir := t.TempDir()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Init(dir, Terms{Years: 1, CAYears: 1}); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), path) {
			t.Errorf("with %s: %v", name, err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 {
			t.Errorf("with %s: it left %v, %v", name, entries, err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
			t.Errorf("%s is %q now, %v", name, b, err)
		}
	}
}

func TestHostsStayWhenRenewed(t *testing.T) {
	dir := made(t, Terms{Years: 1, CAYears: 10, Hosts: []string{"store.example", "10.1.2.3", "fd00::1"}})
	f := RoleFiles(dir, RoleStore)
	before, err := f.loadPair()
	if err != nil {
		t.Fatal(err)
	}
	if err := Renew(dir, Terms{Years: 1}, RoleStore); err != nil {
		t.Fatal(err)
	}
	after, err := f.loadPair()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(after.Leaf.DNSNames, []string{"store.strata", "store.example"}) {
		t.Errorf("names are %q", after.Leaf.DNSNames)
	}
	if !slices.EqualFunc(after.Leaf.IPAddresses, []string{"10.1.2.3", "fd00::1"}, func(a net.IP, b string) bool { return a.String() == b }) {
		t.Errorf("addresses are %v", after.Leaf.IPAddresses)
	}
	if before.Leaf.SerialNumber.Cmp(after.Leaf.SerialNumber) == 0 {
		t.Error("nothing was renewed")
	}
}

// A certificate that outlives its authority would fail with a puzzling error.
func TestNotBeyondTheAuthority(t *testing.T) {
	dir := made(t, Terms{Years: 5, CAYears: 2})
	at, err := RoleFiles(dir, RoleNode).Expires()
	if err != nil || at.After(time.Now().AddDate(2, 0, 0).Add(time.Minute)) {
		t.Errorf("it expires at %v, %v", at, err)
	}
}

func TestCheckNamesTheFile(t *testing.T) {
	dir := made(t, Terms{})
	good := RoleFiles(dir, RoleNode)
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		files   Files
		is      error
		mention string
	}{
		"nothing":        {Files{}, nil, ""},
		"no key named":   {Files{CA: good.CA, Cert: good.Cert}, ErrMissing, "key"},
		"no CA named":    {Files{Cert: good.Cert, Key: good.Key}, ErrMissing, "authority"},
		"key not there":  {Files{good.CA, good.Cert, junk + "x"}, ErrMissing, junk + "x"},
		"junk as CA":     {Files{junk, good.Cert, good.Key}, ErrMalformed, junk},
		"junk as cert":   {Files{good.CA, junk, good.Key}, ErrMalformed, junk},
		"another's key":  {Files{good.CA, good.Cert, RoleFiles(dir, RoleStore).Key}, ErrMalformed, "store"},
		"all is as good": {good, nil, ""},
	} {
		err := c.files.Check()
		if !errors.Is(err, c.is) || err != nil && !strings.Contains(err.Error(), c.mention) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRenewWants(t *testing.T) {
	dir := made(t, Terms{})
	if err := Renew(t.TempDir(), Terms{Years: 1}); !errors.Is(err, ErrMissing) {
		t.Errorf("a directory without authority: %v", err)
	}
	if err := Renew(dir, Terms{Years: 1, Now: time.Now().AddDate(20, 0, 0)}); !errors.Is(err, ErrExpired) {
		t.Errorf("an authority that has expired: %v", err)
	}
	b, err := os.ReadFile(RoleFiles(dir, RoleNode).Key)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, CAKey), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := Renew(dir, Terms{Years: 1}); !errors.Is(err, ErrMalformed) {
		t.Errorf("a key of somebody else: %v", err)
	}
}
