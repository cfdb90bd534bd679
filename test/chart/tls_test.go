package chart

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// secrets are the rendered ones, by name.
func secrets(t *testing.T, objects []Object) map[string]*corev1.Secret {
	t.Helper()
	d := decoder(t)
	all := make(map[string]*corev1.Secret)
	for _, o := range objects {
		object, _, err := d.Decode(o.Text)
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := object.(*corev1.Secret); ok {
			all[s.Name] = s
		}
	}
	return all
}

// leaf is the certificate of a role, once it is known to be believed.
func leaf(t *testing.T, all map[string]*corev1.Secret, role string) *x509.Certificate {
	t.Helper()
	s := all["strata-tls-"+role]
	if s == nil {
		t.Fatalf("role %s has no Secret", role)
	}
	pair, err := tls.X509KeyPair(s.Data["tls.crt"], s.Data["tls.key"])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(s.Data["ca.crt"]) || !bytes.Equal(s.Data["ca.crt"], all["strata-tls-ca"].Data["tls.crt"]) {
		t.Fatalf("role %s: ca.crt is not the authority", role)
	}
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if role == "store" {
		usage = append(usage, x509.ExtKeyUsageServerAuth)
	}
	for _, u := range usage {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: role + ".strata", KeyUsages: []x509.ExtKeyUsage{u}}); err != nil {
			t.Fatalf("role %s: %v", role, err)
		}
	}
	if !slices.Equal(pair.Leaf.DNSNames, []string{role + ".strata"}) {
		t.Errorf("role %s: names %v", role, pair.Leaf.DNSNames)
	}
	return pair.Leaf
}

// TestCertificatesOverUpgrades: the authority is made once; a certificate is kept until
// half of its life is over.
func TestCertificatesOverUpgrades(t *testing.T) {
	cluster := make(living)
	r := Release{Name: "strata", Namespace: "storage", Cluster: Cluster{Lookup: cluster}}
	render := func() map[string]*corev1.Secret {
		objects, _ := rendered(t, r)
		all := secrets(t, objects)
		cluster.apply(t, objects)
		return all
	}
	roles := []string{"controller", "node", "store"}
	first := render()
	for _, role := range roles {
		c := leaf(t, first, role)
		if life := c.NotAfter.Sub(c.NotBefore); life < 1824*24*time.Hour || life > 1826*24*time.Hour {
			t.Errorf("%s lives for %v", role, life)
		}
	}
	if len(first) != 4 {
		t.Errorf("%d secrets", len(first))
	}
	second := render()
	for name, s := range first {
		for key, value := range s.Data {
			if !bytes.Equal(value, second[name].Data[key]) {
				t.Errorf("an upgrade changes %s of %s", key, name)
			}
		}
		if s.Annotations["strata.dev/renew-after"] != second[name].Annotations["strata.dev/renew-after"] {
			t.Errorf("an upgrade puts off the renewal of %s", name)
		}
	}
	// Half of the node's certificate's life is over.
	cluster["Secret storage/strata-tls-node"].SetAnnotations(map[string]string{"strata.dev/renew-after": strconv.FormatInt(time.Now().Unix()-1, 10)})
	third := render()
	if leaf(t, third, "node").Equal(leaf(t, first, "node")) || !leaf(t, third, "store").Equal(leaf(t, first, "store")) {
		t.Error("the node's certificate alone is to be renewed")
	}
	// Another role is asked for later: of the same authority.
	r.Values = map[string]any{"tls": map[string]any{"operator": true}}
	leaf(t, render(), "operator")
	// The authority is lost: everything is made anew.
	delete(cluster, "Secret storage/strata-tls-ca")
	last := render()
	for _, role := range roles {
		if leaf(t, last, role).Equal(leaf(t, third, role)) {
			t.Errorf("%s is of an authority that is gone", role)
		}
	}
}

// TestKeysStayWithTheirRole: no pod mounts the authority's key or another role's.
func TestKeysStayWithTheirRole(t *testing.T) {
	for name, r := range valuesFiles(t) {
		objects, _ := rendered(t, r)
		for _, p := range podsOf(t, objects) {
			for _, v := range p.spec.Volumes {
				if v.Secret == nil {
					continue
				}
				mode := v.Secret.DefaultMode
				if mode == nil || *mode&0o007 != 0 {
					t.Errorf("%s: %s: volume %s can be read by others", name, p.name, v.Name)
				}
				if s := v.Secret.SecretName; strings.Contains(s, "-tls-") && !strings.HasSuffix(s, "-"+p.role()) {
					t.Errorf("%s: %s mounts %s", name, p.name, s)
				}
			}
		}
	}
}

// TestNoKeyInGoldens guards the goldens, which are in the repository.
func TestNoKeyInGoldens(t *testing.T) {
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})
	if !secret.MatchString("tls.crt: " + encode(block)) {
		t.Error("PEM is not recognised")
	}
}
