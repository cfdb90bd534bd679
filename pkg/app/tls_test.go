package app

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/export"
	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/pki"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
	"github.com/strata-csi/strata/pkg/storeapi"
)

// secured is a store process with TLS on TCP.
type secured struct {
	*running
	pki string
	api string // on TCP
	nbd nbd.Target
}

func certificates(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	if err := pki.Init(dir, pki.Terms{Years: 1, CAYears: 2}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func startSecured(t *testing.T, cfg Config) *secured {
	t.Helper()
	dir := certificates(t)
	cfg.Data, cfg.TLS = shortDir(t), pki.RoleFiles(dir, pki.RoleStore)
	cfg.NBD, cfg.API = []string{"127.0.0.1:0"}, []string{"127.0.0.1:0"}
	mem := memstore.New()
	cfg.Backend = func(string) (store.Full, error) { return mem, nil }
	r := mustStart(t, cfg)
	t.Cleanup(r.stop)
	target, err := nbd.ParseURI(r.serving.NBD[1])
	if err != nil || !target.TLS {
		t.Fatalf("NBD is served at %v, %v", r.serving.NBD, err)
	}
	return &secured{running: r, pki: dir, api: r.serving.API[1], nbd: target}
}

// as is a client of the API with a role.
func (s *secured) as(role pki.Role) *storeapi.Client {
	s.t.Helper()
	c, err := storeapi.Dial(s.api, storeapi.DialOptions{TLS: pki.RoleFiles(s.pki, role)})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// attach connects to an export with a role.
func (s *secured) attach(role pki.Role, name string) error {
	target := s.nbd
	target.Export = name
	d := nbd.Dialer{TLS: pki.RoleFiles(s.pki, role).Client(), Label: "the store"}
	c, err := d.Dial(s.t.Context(), target.String())
	if err == nil {
		return c.Close()
	}
	return err
}

// Over TLS an operator does all there is to do, data included, and Close of a device is
// over only when the store has let go of it.
func TestOperatorOverTLS(t *testing.T) {
	s := startSecured(t, Config{})
	c := s.as(pki.RoleOperator)
	img, d := newImage(t, c)
	if _, err := d.WriteAt([]byte("strata"), 4096); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("closing took %v: nobody told that it was over", took)
	}
	if err := c.Remove(t.Context(), img.ID); err != nil {
		t.Errorf("remove what was just closed: %v", err)
	}
}

// What a node needs it may do, and nothing else.
func TestNodeOverTLS(t *testing.T) {
	s := startSecured(t, Config{})
	admin, node := s.as(pki.RoleController), s.as(pki.RoleNode)
	img, err := admin.Create(t.Context(), store.Spec{Name: "img", Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	pub, err := admin.Publish(t.Context(), img.ID, "node-a", store.AccessWrite)
	if err != nil {
		t.Fatal(err)
	}
	format := store.FormatBegun
	for name, call := range map[string]func() error{
		"Stat":      func() error { _, err := node.Stat(t.Context(), img.ID); return err },
		"Lookup":    func() error { _, err := node.Lookup(t.Context(), "img"); return err },
		"Usage":     func() error { _, err := node.Usage(t.Context(), img.ID); return err },
		"Status":    func() error { _, err := node.Status(t.Context()); return err },
		"Endpoints": func() error { _, err := node.Endpoints(t.Context()); return err },
		"Modify": func() error {
			_, err := node.Modify(t.Context(), img.ID, store.Change{Format: &format})
			return err
		},
		"SwapNote": func() error { return node.SwapNote(t.Context(), "node/a", "", "{}") },
		"Note": func() error {
			_, err := node.Note(t.Context(), "pool")
			if errors.Is(err, store.ErrNotFound) { // it may know that
				return nil
			}
			return err
		},
		"Notes": func() error {
			return node.Notes(t.Context(), "member/", func(string, string) error { return nil })
		},
		"attach": func() error { return s.attach(pki.RoleNode, export.Name(pub, 1)) },
	} {
		if err := call(); err != nil {
			t.Errorf("a node may not %s: %v", name, err)
		}
	}
	pubs, err := node.Publications(t.Context(), img.ID)
	if err != nil || len(pubs) != 1 || pubs[0].Token != "" || pubs[0].Epoch != pub.Epoch {
		t.Errorf("a node sees publications %+v, %v", pubs, err)
	}
	if pubs, err = admin.Publications(t.Context(), img.ID); err != nil || pubs[0].Token != pub.Token {
		t.Errorf("a controller sees publications %+v, %v", pubs, err)
	}
	for name, err := range denials(t.Context(), node, img.ID) {
		if !errors.Is(err, storeapi.ErrDenied) || !strings.Contains(err.Error(), `"node"`) {
			t.Errorf("%s by a node: %v", name, err)
		}
	}
	for name, err := range denials(t.Context(), s.as(pki.RoleStore), img.ID) {
		if !errors.Is(err, storeapi.ErrDenied) {
			t.Errorf("%s by a store: %v", name, err)
		}
	}
	if got, err := admin.Stat(t.Context(), img.ID); err != nil || got.Policy != img.Policy || got.Size != img.Size || got.Format != format {
		t.Errorf("the image is %+v, %v now", got, err)
	}
}

// denials are the answers to all that only controllers and operators may do.
func denials(ctx context.Context, c *storeapi.Client, id store.ID) map[string]error {
	errOf := func(_ any, err error) error { return err }
	none := func(store.Info) error { return nil }
	soft := store.Policy{Soft: 3}
	format := store.Format("ext4")
	return map[string]error{
		"Create":              errOf(c.Create(ctx, store.Spec{Name: "x", Size: 1 << 20})),
		"Snapshot":            errOf(c.Snapshot(ctx, id, "s")),
		"Resize":              errOf(c.Resize(ctx, id, 2<<20)),
		"Remove":              c.Remove(ctx, id),
		"Revert":              c.Revert(ctx, id, id),
		"Walk":                c.Walk(ctx, none),
		"Children":            errOf(c.Children(ctx, id)),
		"Publish":             errOf(c.Publish(ctx, id, "node-b", store.AccessRead)),
		"Unpublish":           c.Unpublish(ctx, id, ""),
		"Jobs":                errOf(c.Jobs(ctx)),
		"StartFlatten":        errOf(c.StartFlatten(ctx, id)),
		"CancelJob":           c.CancelJob(ctx, "1"),
		"Modify the policy":   errOf(c.Modify(ctx, id, store.Change{Policy: &soft})),
		"Modify both":         errOf(c.Modify(ctx, id, store.Change{Format: &format, Limits: &store.Limits{IOPS: 1}})),
		"SwapNote of a pool":  c.SwapNote(ctx, "member/x", "", "y"),
		"Note of a snapshot":  errOf(c.Note(ctx, "snap/x")),
		"Notes of everything": c.Notes(ctx, "", func(string, string) error { return nil }),
	}
}

// Tokens and plain names: who may attach what, and that refusals tell nothing.
func TestAttachingOverTLS(t *testing.T) {
	s := startSecured(t, Config{})
	c := s.as(pki.RoleController)
	var pubs []store.Publication
	for _, name := range []string{"one", "two"} {
		img, err := c.Create(t.Context(), store.Spec{Name: name, Size: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		p, err := c.Publish(t.Context(), img.ID, "node-a", store.AccessWrite)
		if err != nil {
			t.Fatal(err)
		}
		pubs = append(pubs, p)
	}
	mixed, wrong := pubs[0], pubs[0]
	mixed.Token = pubs[1].Token
	wrong.Token = strings.Repeat("0", 32)
	for name, refused := range map[string]error{
		"the token of another image": s.attach(pki.RoleNode, export.Name(mixed, 1)),
		"a wrong token":              s.attach(pki.RoleNode, export.Name(wrong, 1)),
		"a plain name by a node":     s.attach(pki.RoleNode, "ro/one"),
		"a plain id by a node":       s.attach(pki.RoleNode, string(pubs[0].ID)),
		"a publication by a store":   s.attach(pki.RoleStore, export.Name(pubs[0], 1)),
	} {
		var refusal *nbd.Refusal
		if !errors.As(refused, &refusal) || refusal.Reason != nbd.Policy {
			t.Errorf("%s: %v", name, refused)
			continue
		}
		for _, p := range pubs {
			if strings.Contains(refused.Error(), p.Token) {
				t.Errorf("%s: the refusal tells a token: %v", name, refused)
			}
		}
	}
	for _, role := range []pki.Role{pki.RoleNode, pki.RoleController, pki.RoleOperator} {
		if err := s.attach(role, export.Name(pubs[0], 2)); err != nil {
			t.Errorf("a publication by role %q: %v", role, err)
		}
	}
	for _, role := range []pki.Role{pki.RoleController, pki.RoleOperator} {
		if err := s.attach(role, "ro/one"); err != nil {
			t.Errorf("a plain name by role %q: %v", role, err)
		}
	}
}

// Whoever has no good certificate gets no further than the handshake.
func TestStrangersOverTLS(t *testing.T) {
	s := startSecured(t, Config{OpenTCP: true})
	stranger := certificates(t)
	for name, opts := range map[string]storeapi.DialOptions{
		"in the clear":      {Insecure: true},
		"another authority": {TLS: pki.RoleFiles(stranger, pki.RoleOperator)},
		"believes it, but is of another authority": {TLS: mixedFiles(t, s.pki, stranger)},
	} {
		c, err := storeapi.Dial(s.api, opts)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if _, err := c.Status(ctx); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		} else {
			t.Logf("%s: %v", name, err)
		}
		cancel()
		c.Close()
	}
	target := s.nbd
	target.TLS, target.Export = false, "ro/x"
	if _, err := nbd.Dial(t.Context(), target.String()); err == nil || !strings.Contains(err.Error(), "requires TLS") {
		t.Errorf("NBD in the clear: %v", err)
	}
}

// mixedFiles believe one authority and show a certificate of the other.
func mixedFiles(t *testing.T, believed, shown string) pki.Files {
	f := pki.RoleFiles(shown, pki.RoleOperator)
	f.CA = pki.RoleFiles(believed, pki.RoleOperator).CA
	return f
}

// A certificate that has expired is said to have, and leaves local clients alone; files
// that are no certificates fail the start.
func TestCertificatesAtStart(t *testing.T) {
	old := filepath.Join(t.TempDir(), "pki")
	if err := pki.Init(old, pki.Terms{Years: 1, CAYears: 10, Now: time.Now().AddDate(-2, 0, 0)}); err != nil {
		t.Fatal(err)
	}
	mem := memstore.New()
	backend := func(string) (store.Full, error) { return mem, nil }
	dir := shortDir(t)
	r := mustStart(t, Config{Data: dir, TLS: pki.RoleFiles(old, pki.RoleStore), API: []string{"127.0.0.1:0"}, Backend: backend})
	defer r.stop()
	st, err := dial(t, dir).Status(t.Context())
	if err != nil || !strings.Contains(strings.Join(st.Warnings, "\n"), "expired on") {
		t.Errorf("status %+v, %v", st, err)
	}
	// Whoever renews it needs no restart.
	if err := os.RemoveAll(old); err != nil {
		t.Fatal(err)
	}
	for years, want := range map[int]string{1: "expires on", 2: ""} {
		begin := time.Now().AddDate(-1, 0, 10)
		if err := errors.Join(os.RemoveAll(old), pki.Init(old, pki.Terms{Years: years, CAYears: 10, Now: begin})); err != nil {
			t.Fatal(err)
		}
		st, err := dial(t, dir).Status(t.Context())
		if err != nil || strings.Contains(strings.Join(st.Warnings, "\n"), "expires on") != (want != "") || strings.Contains(strings.Join(st.Warnings, "\n"), "nobody") {
			t.Errorf("with %d years: status %+v, %v", years, st, err)
		}
	}
	files := pki.RoleFiles(old, pki.RoleStore)
	files.Key = filepath.Join(old, "nothing")
	other := shortDir(t)
	if _, err := startStore(t, Config{Data: other, TLS: files, Backend: backend}); !errors.Is(err, pki.ErrMissing) {
		t.Errorf("start without key: %v", err)
	}
	if _, err := os.Stat(filepath.Join(other, apiSocket)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failed start left %v", err)
	}
}
