package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

func TestCertificates(t *testing.T) {
	a, err := newAuthority(filepath.Join(t.TempDir(), "pki"))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.sign("server", subject("s", "o"), "10.0.0.1", "name.example"); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(a.file("server.crt"), a.file("server.key"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	for _, host := range []string{"10.0.0.1", "name.example"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
			t.Errorf("for %s: %v", host, err)
		}
	}
	file := filepath.Join(t.TempDir(), "config")
	if err := a.kubeconfig(file, "server", "https://10.0.0.1"); err != nil {
		t.Fatal(err)
	}
	c, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil || c.Host != "https://10.0.0.1" || len(c.CertData) == 0 || len(c.CAData) == 0 {
		t.Errorf("kubeconfig: %+v, %v", c, err)
	}
}

// What a module needs comes before it, once, and what is built in has no file.
func TestModuleOrder(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"modules.dep":     "k/a.ko: k/b.ko k/c-d.ko\nk/b.ko: k/c-d.ko\nk/c-d.ko:\nk/e.ko: k/b.ko k/c-d.ko\n",
		"modules.builtin": "k/in.ko\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	k := kernel{modules: dir}
	got, err := k.closure("a", "in", "e", "c_d")
	if want := []string{"k/c-d.ko", "k/b.ko", "k/a.ko", "k/e.ko"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if _, err := k.closure("none"); err == nil {
		t.Error("a module that is not there: no error")
	}
}

func TestWait(t *testing.T) {
	looks := 0
	err := Wait(t.Context(), "two looks", time.Minute, func(context.Context) (bool, error) {
		looks++
		return looks == 2, errors.New("not yet")
	})
	if err != nil || looks != 2 {
		t.Errorf("%d looks, %v", looks, err)
	}
	broken := errors.New("broken")
	err = Wait(t.Context(), "it", time.Minute, func(context.Context) (bool, error) { return false, Final(broken) })
	if !errors.Is(err, broken) {
		t.Errorf("a final error: got %v", err)
	}
	err = Wait(t.Context(), "it", time.Millisecond, func(context.Context) (bool, error) { return false, broken })
	if !errors.Is(err, broken) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("out of time: got %v", err)
	}
}
