package nbd

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

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
