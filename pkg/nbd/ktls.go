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
	h, err := shake(nc, cfg)
	if err != nil {
		return nil, err
	}
	return h.over()
}

// handover is a connection after its TLS handshake. The tls.Conn is never closed:
// that would say good-bye on a connection that goes on.
type handover struct {
	nc     *net.TCPConn
	secure *tls.Conn
	keys   *secrets
}

// shake does the client's TLS handshake and keeps what the kernel needs of it.
func shake(nc *net.TCPConn, cfg *tls.Config) (*handover, error) {
	keys := &secrets{by: make(map[string][]byte)}
	cfg = clientTLS(cfg)
	cfg.KeyLogWriter = keys
	step := &stepper{Conn: nc}
	h := &handover{nc: nc, secure: tls.Client(step, cfg), keys: keys}
	err := h.secure.Handshake()
	if err == nil && (step.left > 0 || step.got > 0) {
		err = errors.New("it ended in the middle of a record")
	}
	if err != nil {
		keys.wipe()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return h, nil
}

// over gives the keys to the kernel.
func (h *handover) over() (net.Conn, error) {
	defer h.keys.wipe()
	raw := rawOf(h.nc)
	if raw == nil {
		return nil, errors.New("TLS handshake: the socket is gone")
	}
	err := install(raw, h.secure.ConnectionState().CipherSuite, h.keys.by)
	if errors.Is(err, errEnded) {
		return nil, fmt.Errorf("the server ended TLS: %w", h.lastWords())
	}
	if err != nil {
		return nil, err
	}
	k := &kernelConn{TCPConn: h.nc, raw: raw}
	k.step = k.attempt
	return k, nil
}

// lastWords is why the server has ended the connection: an alert that waits to be read.
func (h *handover) lastWords() error {
	if _, err := h.secure.Read(make([]byte, 1)); err != nil {
		return err
	}
	return errEnded
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
		return noTLS(err)
	}
	for _, way := range []struct {
		name string
		opt  int
		info []byte
	}{{"sending", kernelTX, tx}, {"receiving", kernelRX, rx}} {
		if err := unix.SetsockoptString(fd, unix.SOL_TLS, way.opt, string(way.info)); err != nil {
			return noKeys(err, way.name, suite)
		}
	}
	return nil
}

// errEnded: the server has ended the connection before the kernel had the keys.
var errEnded = errors.New("the connection was ended before the kernel had the keys")

// noTLS says why a socket did not become one with TLS.
func noTLS(err error) error {
	switch {
	case errors.Is(err, unix.ENOTCONN): // only an open connection is taken, whatever modules there are
		return errEnded
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: it has no TLS sockets; load the module with: modprobe tls; a kernel without it lacks CONFIG_TLS (%w)", ErrNoKernelTLS, err)
	case errors.Is(err, unix.ENOPROTOOPT):
		return fmt.Errorf("%w: it knows nothing of TLS; use a kernel from 6.1 on with CONFIG_TLS (%w)", ErrNoKernelTLS, err)
	}
	return fmt.Errorf("%w: it did not make the socket one with TLS (%w)", ErrNoKernelTLS, err)
}

// noKeys says why a socket did not take the keys of one direction.
func noKeys(err error, way string, suite kernelSuite) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: it lacks the cipher for %s; load the module with: modprobe %s (%w)", ErrNoKernelTLS, way, suite.modules, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: it does not know TLS 1.3 with this cipher for %s; use a kernel from 6.1 on (%w)", ErrNoKernelTLS, way, err)
	}
	return fmt.Errorf("%w: it did not take the keys for %s (%w)", ErrNoKernelTLS, way, err)
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
