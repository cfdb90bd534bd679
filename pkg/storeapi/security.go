package storeapi

import (
	"context"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/klog/v2"

	"github.com/strata-csi/strata/pkg/pki"
)

// alpn is what gRPC calls itself in TLS.
const alpn = "h2"

// clientCredentials are those with which the API at an address is called.
func clientCredentials(api address, files pki.Files) credentials.TransportCredentials {
	if api.network == "unix" || !files.Set() {
		return insecure.NewCredentials()
	}
	return &plainSpoken{TransportCredentials: credentials.NewTLS(files.Client()), files: files}
}

// plainSpoken says in plain words why a handshake failed.
type plainSpoken struct {
	credentials.TransportCredentials
	files pki.Files
}

// ClientHandshake implements credentials.TransportCredentials.
func (p *plainSpoken) ClientHandshake(ctx context.Context, authority string, nc net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := p.TransportCredentials.ClientHandshake(ctx, authority, nc)
	if err != nil {
		return nil, nil, p.files.Explain(err)
	}
	return &explained{Conn: c, files: p.files}, info, nil
}

// Clone implements credentials.TransportCredentials.
func (p *plainSpoken) Clone() credentials.TransportCredentials {
	return &plainSpoken{TransportCredentials: p.TransportCredentials.Clone(), files: p.files}
}

// explained says in plain words what a server has against the client, which is told
// only once the client's handshake is over.
type explained struct {
	net.Conn
	files pki.Files
}

// Read implements net.Conn.
func (e *explained) Read(p []byte) (int, error) {
	n, err := e.Conn.Read(p)
	return n, e.files.Explain(err)
}

// trusted marks a connection whose right to everything comes from how it was made: over
// a unix socket, or over TCP where no TLS is asked for.
type trusted struct{}

// AuthType implements credentials.AuthInfo.
func (trusted) AuthType() string { return "trusted" }

// serverCredentials ask for TLS on TCP if there are files, and for nothing elsewhere.
func serverCredentials(log klog.Logger, files pki.Files) credentials.TransportCredentials {
	s := &serverSide{TransportCredentials: insecure.NewCredentials(), log: log, files: files}
	if files.Set() {
		s.tls = credentials.NewTLS(files.Server(alpn))
	}
	return s
}

type serverSide struct {
	credentials.TransportCredentials // of a connection without TLS
	log                              klog.Logger
	files                            pki.Files
	tls                              credentials.TransportCredentials // or nil
}

// ServerHandshake implements credentials.TransportCredentials.
func (s *serverSide) ServerHandshake(nc net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if s.tls == nil || nc.LocalAddr().Network() == "unix" {
		return nc, trusted{}, nil
	}
	c, info, err := s.tls.ServerHandshake(nc)
	if err != nil {
		err = s.files.Explain(err)
		s.log.V(2).Info("Connection refused", "peer", nc.RemoteAddr().String(), "err", err)
		return nil, nil, err
	}
	return c, info, nil
}

// Clone implements credentials.TransportCredentials.
func (s *serverSide) Clone() credentials.TransportCredentials {
	c := *s
	return &c
}
