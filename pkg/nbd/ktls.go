package nbd

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNoKernelTLS: the kernel cannot take over a TLS connection, for want of a module
// or of a cipher.
var ErrNoKernelTLS = errors.New("the kernel cannot take over the TLS connection")

// From include/uapi/linux/tls.h.
const (
	kernelTX         = 1      // TLS_TX
	kernelRX         = 2      // TLS_RX
	kernelRecordType = 2      // TLS_GET_RECORD_TYPE
	kernelVersion13  = 0x0304 // TLS_1_3_VERSION

	kernelAES128GCM = 51 // TLS_CIPHER_AES_GCM_128
	kernelAES256GCM = 52 // TLS_CIPHER_AES_GCM_256
	kernelChaCha20  = 54 // TLS_CIPHER_CHACHA20_POLY1305
)

// Types of TLS records and messages, RFC 8446 sections 5.1 and 4.
const (
	recordAlert       = 21
	recordHandshake   = 22
	recordApplication = 23

	messageTicket = 4
)

// kernelSuite is a cipher suite as the kernel knows it: struct
// tls12_crypto_info_<cipher> is version, cipher, iv, key, salt and record number. The
// nonce of TLS is salt and iv, one after the other.
type kernelSuite struct {
	cipher  uint16
	hash    func() hash.Hash
	key     int // bytes
	salt    int // bytes of the nonce that precede iv
	modules string
}

// kernelSuiteOf finds a suite by its TLS number.
func kernelSuiteOf(id uint16) (kernelSuite, error) {
	switch id {
	case tls.TLS_AES_128_GCM_SHA256:
		return kernelSuite{kernelAES128GCM, sha256.New, 16, 4, "gcm"}, nil
	case tls.TLS_AES_256_GCM_SHA384:
		return kernelSuite{kernelAES256GCM, sha512.New384, 32, 4, "gcm"}, nil
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		return kernelSuite{kernelChaCha20, sha256.New, 32, 0, "chacha20poly1305"}, nil
	}
	return kernelSuite{}, fmt.Errorf("the server chose %s: %w", tls.CipherSuiteName(id), ErrNoKernelTLS)
}

const nonceSize = 12

// info derives what the kernel needs of a traffic secret, RFC 8446 section 7.3, for a
// direction in which no record has gone yet.
func (s kernelSuite) info(secret []byte) ([]byte, error) {
	key, err := expandLabel(s.hash, secret, "key", s.key)
	if err != nil {
		return nil, err
	}
	nonce, err := expandLabel(s.hash, secret, "iv", nonceSize)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, 64)
	b = binary.NativeEndian.AppendUint16(b, kernelVersion13)
	b = binary.NativeEndian.AppendUint16(b, s.cipher)
	b = append(b, nonce[s.salt:]...)
	b = append(b, key...)
	b = append(b, nonce[:s.salt]...)
	b = append(b, make([]byte, 8)...) // the number of the next record
	clear(key)
	clear(nonce)
	return b, nil
}

// expandLabel is HKDF-Expand-Label with an empty context.
func expandLabel(h func() hash.Hash, secret []byte, label string, n int) ([]byte, error) {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(len(label)))
	info = append(info, label...)
	info = append(info, 0)
	b, err := hkdf.Expand(h, secret, string(info), n)
	if err != nil {
		return nil, fmt.Errorf("derive the %s: %w", label, err)
	}
	return b, nil
}

// Labels of the secrets that are taken from the key log.
const (
	clientSecret = "CLIENT_TRAFFIC_SECRET_0"
	serverSecret = "SERVER_TRAFFIC_SECRET_0"
)

// secrets takes the traffic secrets out of what crypto/tls writes to a key log. They
// stay in memory and are wiped when the kernel has the keys.
type secrets struct {
	mu sync.Mutex
	by map[string][]byte
}

// Write takes one line: label, client random, secret.
func (s *secrets) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := bytes.Fields(line)
	if len(f) != 3 {
		return 0, errors.New("a line of the key log is malformed")
	}
	switch label := string(f[0]); label {
	case clientSecret, serverSecret:
		secret := make([]byte, hex.DecodedLen(len(f[2])))
		if _, err := hex.Decode(secret, f[2]); err != nil {
			return 0, fmt.Errorf("a line of the key log is malformed: %w", err)
		}
		s.by[label] = secret
	}
	return len(line), nil
}

func (s *secrets) wipe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, secret := range s.by {
		clear(secret)
	}
}

// handToKernel does the client's TLS handshake on a socket and gives the keys to the
// kernel. From then on, plain text is read from and written to what it returns.
func handToKernel(nc *net.TCPConn, cfg *tls.Config) (net.Conn, error) {
	keys := &secrets{by: make(map[string][]byte)}
	defer keys.wipe()
	cfg = clientTLS(cfg)
	cfg.KeyLogWriter = keys
	step := &stepper{Conn: nc}
	secure := tls.Client(step, cfg)
	// It is never closed: that would say good-bye on a connection that goes on.
	if err := secure.Handshake(); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	if step.left > 0 || step.got > 0 {
		return nil, errors.New("TLS handshake: it ended in the middle of a record")
	}
	raw := rawOf(nc)
	if raw == nil {
		return nil, errors.New("TLS handshake: the socket is gone")
	}
	if err := install(raw, secure.ConnectionState().CipherSuite, keys.by); err != nil {
		return nil, err
	}
	k := &kernelConn{TCPConn: nc, raw: raw}
	k.step = k.attempt
	return k, nil
}

// install puts the keys of both directions into the socket.
func install(raw syscall.RawConn, id uint16, by map[string][]byte) error {
	suite, err := kernelSuiteOf(id)
	if err != nil {
		return err
	}
	if by[clientSecret] == nil || by[serverSecret] == nil {
		return errors.New("the TLS handshake left no traffic secrets")
	}
	tx, err := suite.info(by[clientSecret])
	if err != nil {
		return err
	}
	defer clear(tx)
	rx, err := suite.info(by[serverSecret])
	if err != nil {
		return err
	}
	defer clear(rx)
	cerr := raw.Control(func(fd uintptr) { err = installKeys(int(fd), suite, tx, rx) })
	return errors.Join(err, cerr)
}

func installKeys(fd int, suite kernelSuite, tx, rx []byte) error {
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_ULP, "tls"); err != nil {
		return fmt.Errorf("%w: it has no TLS sockets; load the module with: modprobe tls (%w)", ErrNoKernelTLS, err)
	}
	for _, way := range []struct {
		name string
		opt  int
		info []byte
	}{{"sending", kernelTX, tx}, {"receiving", kernelRX, rx}} {
		if err := unix.SetsockoptString(fd, unix.SOL_TLS, way.opt, string(way.info)); err != nil {
			return fmt.Errorf("%w: it did not take the keys for %s; load the module of the cipher with: modprobe %s (%w)", ErrNoKernelTLS, way.name, suite.modules, err)
		}
	}
	return nil
}

// stepper reads from a connection no further than to the end of one TLS record at a
// time, so that whoever reads through it has nothing left over when the handshake is
// done: what follows is for the kernel.
type stepper struct {
	net.Conn
	head [5]byte
	got  int // bytes of head received
	out  int // bytes of head passed on
	left int // bytes of the record's body to come
}

// Read implements net.Conn.
func (s *stepper) Read(p []byte) (int, error) {
	if s.left > 0 {
		n, err := s.Conn.Read(p[:min(len(p), s.left)])
		s.left -= n
		return n, err
	}
	for s.got < len(s.head) {
		n, err := s.Conn.Read(s.head[s.got:])
		s.got += n
		if err != nil && s.got < len(s.head) {
			return 0, err
		}
	}
	n := copy(p, s.head[s.out:])
	if s.out += n; s.out == len(s.head) {
		s.left = int(binary.BigEndian.Uint16(s.head[3:]))
		s.got, s.out = 0, 0
	}
	return n, nil
}

// kernelConn is a socket whose TLS the kernel does. Reading tells apart what is no
// data, such as the alert of a server that refuses the client's certificate.
type kernelConn struct {
	*net.TCPConn
	raw  syscall.RawConn
	step func(fd uintptr) bool

	p    []byte
	n    int
	kind byte
	err  error

	message []byte // head of a handshake message, as far as received
	skip    int    // bytes of its body to come
}

// Read implements net.Conn.
func (k *kernelConn) Read(p []byte) (int, error) {
	for {
		k.p = p
		err := k.raw.Read(k.step)
		k.p = nil
		if err == nil {
			err = k.err
		}
		switch {
		case err != nil:
			return 0, fmt.Errorf("receive through the kernel's TLS: %w", err)
		case k.n == 0:
			return 0, io.EOF
		case k.kind == recordApplication:
			return k.n, nil
		}
		if err := k.control(p[:k.n]); err != nil {
			return 0, err
		}
	}
}

// attempt is called by the poller until it returns true.
func (k *kernelConn) attempt(fd uintptr) bool {
	oob := make([]byte, unix.CmsgSpace(1))
	n, oobn, _, _, err := unix.Recvmsg(int(fd), k.p, oob, 0)
	if errors.Is(err, unix.EAGAIN) {
		return false
	}
	k.n, k.err, k.kind = max(n, 0), err, recordApplication
	if err != nil {
		return true
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		k.err = err
		return true
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_TLS && m.Header.Type == kernelRecordType && len(m.Data) > 0 {
			k.kind = m.Data[0]
		}
	}
	return true
}

// control judges what was received of a record that is no data.
func (k *kernelConn) control(p []byte) error {
	switch {
	case k.kind == recordHandshake:
		return k.ticket(p)
	case k.kind == recordAlert && len(p) == 2 && p[1] == 0:
		return io.EOF // close_notify
	case k.kind == recordAlert && len(p) == 2:
		return fmt.Errorf("the server ended TLS: remote error: %w", tls.AlertError(p[1]))
	}
	return fmt.Errorf("the server sent a TLS record of type %d where none may be", k.kind)
}

// ticket drops tickets for later sessions, which mean nothing to us; the kernel has
// counted their record. No other handshake message may come.
func (k *kernelConn) ticket(p []byte) error {
	for len(p) > 0 {
		if k.skip > 0 {
			n := min(k.skip, len(p))
			p, k.skip = p[n:], k.skip-n
			continue
		}
		k.message, p = append(k.message, p[0]), p[1:]
		if k.message[0] != messageTicket {
			return fmt.Errorf("the server sent a TLS handshake message of type %d where none may be", k.message[0])
		}
		if len(k.message) == 4 {
			k.skip = int(binary.BigEndian.Uint32(k.message) & 0xffffff)
			k.message = k.message[:0]
		}
	}
	return nil
}
