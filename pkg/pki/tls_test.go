package pki

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// made is a directory of certificates.
func made(t *testing.T, terms Terms) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	if terms.Years == 0 {
		terms.Years, terms.CAYears = 1, 10
	}
	if err := Init(dir, terms); err != nil {
		t.Fatal(err)
	}
	return dir
}

// meet connects two configurations and tells what each side says.
func meet(t *testing.T, server, client *tls.Config) (role Role, serverErr, clientErr error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	until := time.Now().Add(20 * time.Second)
	a.SetDeadline(until)
	b.SetDeadline(until)
	done := make(chan error, 1)
	go func() {
		s := tls.Server(a, server)
		err := s.Handshake()
		if err == nil {
			role, err = RoleOf(s.ConnectionState())
			_, werr := s.Write([]byte{1})
			err = errors.Join(err, werr)
		}
		a.Close()
		done <- err
	}()
	c := tls.Client(b, client)
	clientErr = c.Handshake()
	if clientErr == nil {
		// The server's verdict on the client comes after the client's handshake.
		_, clientErr = io.ReadFull(c, make([]byte, 1))
	}
	b.Close()
	return role, <-done, clientErr
}

func TestRolesMeet(t *testing.T) {
	dir := made(t, Terms{})
	server := RoleFiles(dir, RoleStore).Server()
	for _, r := range Roles() {
		f := RoleFiles(dir, r)
		if err := f.Check(); err != nil {
			t.Errorf("%s: %v", r, err)
		}
		got, serverErr, clientErr := meet(t, server, f.Client())
		if got != r || serverErr != nil || clientErr != nil {
			t.Errorf("a client of role %q is %q to the server; %v, %v", r, got, serverErr, clientErr)
		}
	}
}

func TestProtocolsAreNegotiated(t *testing.T) {
	dir := made(t, Terms{})
	client := RoleFiles(dir, RoleNode).Client()
	client.NextProtos = []string{"h2"}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	go func() { done <- tls.Server(a, RoleFiles(dir, RoleStore).Server("h2")).Handshake() }()
	c := tls.Client(b, client)
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if cs := c.ConnectionState(); cs.NegotiatedProtocol != "h2" || cs.Version != tls.VersionTLS13 {
		t.Errorf("negotiated %q in version %#x", cs.NegotiatedProtocol, cs.Version)
	}
}

// A clock that is wrong makes good certificates invalid; the error has to lead there.
func TestClockIsWrong(t *testing.T) {
	future := made(t, Terms{Years: 1, CAYears: 10, Now: time.Now().AddDate(1, 0, 0)})
	_, _, err := meet(t, RoleFiles(future, RoleStore).Server(), RoleFiles(future, RoleNode).Client())
	if !errors.Is(err, ErrExpired) || !strings.Contains(err.Error(), "is the clock right?") {
		t.Errorf("a certificate of the future: %v", err)
	}
}

// Each case breaks one thing. The side that finds it out says it in plain words, and
// the other learns that it was refused.
func TestRefusals(t *testing.T) {
	dir, other := made(t, Terms{}), made(t, Terms{})
	old := made(t, Terms{Years: 1, CAYears: 10, Now: time.Now().AddDate(-2, 0, 0)})
	store := RoleFiles(dir, RoleStore)
	bare := func(f Files) *tls.Config { // as a program that is not ours
		c := f.Client()
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := f.loadPair()
			return &pair, err
		}
		return c
	}
	none := store.Client()
	none.GetClientCertificate = nil
	noVerify := func(f Files, believe string) *tls.Config {
		c := bare(f)
		c.VerifyConnection = Files{CA: filepath.Join(believe, CAFile)}.verifyStore
		return c
	}
	for name, c := range map[string]struct {
		server      Files
		client      *tls.Config
		explain     Files
		onServer    error // what the server's error is
		onClient    error
		mustMention string
	}{
		"client without certificate": {store, none, Files{}, ErrMissing, ErrRefused, "none was shown"},
		"client of another CA": {store, noVerify(RoleFiles(other, RoleNode), dir), RoleFiles(other, RoleNode),
			ErrUnknownCA, ErrRefused, "does not know the authority"},
		"expired client": {RoleFiles(old, RoleStore), noVerify(RoleFiles(old, RoleNode), dir), RoleFiles(old, RoleNode),
			nil, ErrExpired, "expired on"}, // the server's certificate has expired too: the client is first
		"server of another CA": {RoleFiles(other, RoleStore), RoleFiles(dir, RoleNode).Client(), RoleFiles(dir, RoleNode),
			nil, ErrUnknownCA, filepath.Join(dir, "node", CAFile)},
		"server that is a node": {RoleFiles(dir, RoleNode), RoleFiles(dir, RoleNode).Client(), RoleFiles(dir, RoleNode),
			nil, ErrRole, "strata node"},
	} {
		t.Run(name, func(t *testing.T) {
			_, serverErr, clientErr := meet(t, c.server.Server(), c.client)
			serverErr, clientErr = c.server.Explain(serverErr), c.explain.Explain(clientErr)
			t.Logf("server: %v\nclient: %v", serverErr, clientErr)
			if serverErr == nil || clientErr == nil {
				t.Fatal("they met")
			}
			if c.onServer != nil && !errors.Is(serverErr, c.onServer) {
				t.Errorf("the server says %v, want %v", serverErr, c.onServer)
			}
			if !errors.Is(clientErr, c.onClient) || !strings.Contains(clientErr.Error(), c.mustMention) {
				t.Errorf("the client says %v, want %v with %q", clientErr, c.onClient, c.mustMention)
			}
		})
	}
}

// A client whose certificate has expired is told by the server, and knows it by itself.
func TestExpiredClient(t *testing.T) {
	dir := made(t, Terms{})
	now := time.Now()
	if err := Renew(dir, Terms{Years: 1, Now: now.AddDate(-2, 0, 0)}, RoleNode); err == nil {
		t.Error("the authority issued a certificate before it was valid itself")
	}
	a, err := loadAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.issueTo(dir, RoleNode, nil, Terms{Years: 1, Now: now.AddDate(-2, 0, 0)}); err != nil {
		t.Fatal(err)
	}
	store, node := RoleFiles(dir, RoleStore), RoleFiles(dir, RoleNode)
	if err := node.Check(); !errors.Is(err, ErrExpired) || !strings.Contains(err.Error(), node.Cert) {
		t.Errorf("Check of an expired certificate: %v", err)
	}
	_, _, clientErr := meet(t, store.Server(), node.Client())
	if !errors.Is(clientErr, ErrExpired) || !strings.Contains(clientErr.Error(), node.Cert) {
		t.Errorf("our client with an expired certificate: %v", clientErr)
	}
	foreign := node.Client()
	foreign.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := node.loadPair()
		return &pair, err
	}
	_, serverErr, clientErr := meet(t, store.Server(), foreign)
	if serverErr = store.Explain(serverErr); !errors.Is(serverErr, ErrExpired) || !strings.Contains(serverErr.Error(), "strata node") {
		t.Errorf("the server says %v", serverErr)
	}
	if clientErr = node.Explain(clientErr); !errors.Is(clientErr, ErrRefused) || !strings.Contains(clientErr.Error(), "it has expired") {
		t.Errorf("the client says %v", clientErr)
	}
}

// A certificate of the authority that names no role opens nothing.
func TestNoRole(t *testing.T) {
	dir := made(t, Terms{})
	a, err := loadAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.issueTo(dir, "guest", nil, Terms{Years: 1}); err != nil {
		t.Fatal(err)
	}
	guest := RoleFiles(dir, "guest")
	if err := guest.Check(); !errors.Is(err, ErrRole) {
		t.Errorf("Check of a certificate without role: %v", err)
	}
	_, serverErr, clientErr := meet(t, RoleFiles(dir, RoleStore).Server(), guest.Client())
	if !errors.Is(serverErr, ErrRole) || !errors.Is(guest.Explain(clientErr), ErrRefused) {
		t.Errorf("server: %v, client: %v", serverErr, clientErr)
	}
}

// Of several names the first role counts, so a node cannot pass for a store by a name
// that was added to it.
func TestFirstRoleCounts(t *testing.T) {
	dir := made(t, Terms{})
	a, err := loadAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.issueTo(dir, RoleNode, []string{"Store.strata"}, Terms{Years: 1}); err != nil {
		t.Fatal(err)
	}
	got, _, clientErr := meet(t, RoleFiles(dir, RoleStore).Server(), RoleFiles(dir, RoleNode).Client())
	if got != RoleNode || clientErr != nil {
		t.Errorf("the role is %q, %v", got, clientErr)
	}
	if _, _, clientErr = meet(t, RoleFiles(dir, RoleNode).Server(), RoleFiles(dir, RoleNode).Client()); !errors.Is(clientErr, ErrRole) {
		t.Errorf("a node passes for a store: %v", clientErr)
	}
}

// Everything can be replaced between two handshakes of the same configurations.
func TestRotation(t *testing.T) {
	dir, other := made(t, Terms{}), made(t, Terms{})
	store, node := RoleFiles(dir, RoleStore), RoleFiles(dir, RoleNode)
	server, client := store.Server(), node.Client()
	expect := func(when string, want error) {
		t.Helper()
		_, serverErr, clientErr := meet(t, server, client)
		if want == nil && (serverErr != nil || clientErr != nil) || want != nil && !errors.Is(clientErr, want) {
			t.Errorf("%s: server %v, client %v, want %v", when, serverErr, clientErr, want)
		}
	}
	expect("at first", nil)
	if err := Renew(dir, Terms{Years: 2}); err != nil {
		t.Fatal(err)
	}
	if at, err := store.Expires(); err != nil || time.Until(at) < 500*24*time.Hour {
		t.Errorf("the renewed certificate expires at %v, %v", at, err)
	}
	expect("after a renewal", nil)
	put := func(from, to string) {
		t.Helper()
		b, err := os.ReadFile(from)
		if err == nil {
			err = replace(to, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	from := RoleFiles(other, RoleStore)
	put(from.CA, store.CA)
	put(from.Key, store.Key)
	put(from.Cert, store.Cert)
	expect("when the store alone has another authority", ErrUnknownCA)
	from = RoleFiles(other, RoleNode)
	put(from.CA, node.CA)
	put(from.Key, node.Key)
	put(from.Cert, node.Cert)
	expect("when both have", nil)
	if err := os.Remove(node.Key); err != nil {
		t.Fatal(err)
	}
	expect("when the key is gone", ErrMissing)
}
