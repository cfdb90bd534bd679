package interop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// The numbers of the protocol, written down once more so that a wrong one in
// pkg/nbd is noticed.
const (
	magicOption = 0x49484156454F5054
	magicReply  = 0x3e889045565a9
	magicReq    = 0x25609513
	magicSimple = 0x67446698

	optExportName = 1
	optAbort      = 2
	optList       = 3
	optStartTLS   = 5
	optGo         = 7
	optSetMeta    = 10

	repAck    = 1
	repInfo   = 3
	repErrBit = 1 << 31

	cmdRead  = 0
	cmdWrite = 1
	cmdDisc  = 2
	cmdTrim  = 4
)

// wire is a connection on which any bytes can be sent.
type wire struct {
	t *testing.T
	net.Conn
}

// dial connects and reads the greeting; network is "unix" or "tcp".
func dial(t *testing.T, network, address string) *wire {
	t.Helper()
	w, err := tryDial(t, network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func tryDial(t *testing.T, network, address string) (*wire, error) {
	c, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return nil, err
	}
	w := &wire{t, c}
	_ = c.SetDeadline(time.Now().Add(patience))
	var hello [18]byte
	if _, err := io.ReadFull(c, hello[:]); err != nil {
		c.Close()
		return nil, fmt.Errorf("greeting: %w", err)
	}
	if string(hello[:16]) != "NBDMAGICIHAVEOPT" {
		c.Close()
		return nil, fmt.Errorf("greeting is %q", hello)
	}
	return w, nil
}

// send writes numbers in network order and byte slices as they are.
func (w *wire) send(parts ...any) {
	w.t.Helper()
	if err := w.trySend(parts...); err != nil {
		w.t.Fatalf("send: %v", err)
	}
}

func (w *wire) trySend(parts ...any) error {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case []byte:
			b = append(b, p...)
		case string:
			b = append(b, p...)
		default:
			var err error
			if b, err = binary.Append(b, binary.BigEndian, p); err != nil {
				return err
			}
		}
	}
	_, err := w.Write(b)
	return err
}

// flags sends the client's flags: fixed newstyle, no zeroes.
func (w *wire) flags() { w.send(uint32(3)) }

// option sends one option and gives the types of all replies up to the last.
func (w *wire) option(opt uint32, payload []byte) []uint32 {
	w.t.Helper()
	w.send(uint64(magicOption), opt, uint32(len(payload)), payload)
	var types []uint32
	for {
		var head struct {
			Magic             uint64
			Option, Type, Len uint32
		}
		if err := binary.Read(w, binary.BigEndian, &head); err != nil {
			w.t.Fatalf("reply to option %d: %v", opt, err)
		}
		if head.Magic != magicReply || head.Option != opt || head.Len > 1<<20 {
			w.t.Fatalf("reply to option %d is %+v", opt, head)
		}
		if _, err := io.CopyN(io.Discard, w, int64(head.Len)); err != nil {
			w.t.Fatalf("reply to option %d: %v", opt, err)
		}
		types = append(types, head.Type)
		if head.Type == repAck || head.Type&repErrBit != 0 {
			return types
		}
	}
}

// refused sends an option that must be answered with an error.
func (w *wire) refused(opt uint32, payload []byte) {
	w.t.Helper()
	if got := w.option(opt, payload); len(got) != 1 || got[0]&repErrBit == 0 {
		w.t.Errorf("option %d, %d bytes: replies %#x, want one error", opt, len(payload), got)
	}
}

// goTo enters transmission with NBD_OPT_GO, without any information asked for.
func (w *wire) goTo(name string) {
	w.t.Helper()
	p := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	p = append(append(p, name...), 0, 0)
	if got := w.option(optGo, p); got[len(got)-1] != repAck {
		w.t.Fatalf("GO %s: replies %#x", name, got)
	}
}

// request sends a request header and what follows it.
func (w *wire) request(flags, command uint16, cookie, offset uint64, length uint32, payload []byte) {
	w.t.Helper()
	w.send(uint32(magicReq), flags, command, cookie, offset, length, payload)
}

// answer reads a simple reply of a command that carries no data.
func (w *wire) answer(cookie uint64) (errno uint32) {
	w.t.Helper()
	var head struct {
		Magic, Errno uint32
		Cookie       uint64
	}
	if err := binary.Read(w, binary.BigEndian, &head); err != nil {
		w.t.Fatalf("reply %d: %v", cookie, err)
	}
	if head.Magic != magicSimple || head.Cookie != cookie {
		w.t.Fatalf("reply %d is %+v", cookie, head)
	}
	return head.Errno
}

// read reads through the protocol, for a look at what is there.
func (w *wire) read(offset uint64, length uint32) []byte {
	w.t.Helper()
	w.request(0, cmdRead, 0x7ead, offset, length, nil)
	if errno := w.answer(0x7ead); errno != 0 {
		w.t.Fatalf("read at %d: error %d", offset, errno)
	}
	b := make([]byte, length)
	if _, err := io.ReadFull(w, b); err != nil {
		w.t.Fatalf("read at %d: %v", offset, err)
	}
	return b
}

// disconnect ends transmission in order: when it returns, the store has let go.
func (w *wire) disconnect() {
	w.t.Helper()
	w.request(0, cmdDisc, 0, 0, 0, nil)
	w.dropped()
	w.Close()
}

// dropped waits until the store has closed the connection.
func (w *wire) dropped() {
	w.t.Helper()
	_ = w.SetReadDeadline(time.Now().Add(patience))
	_, err := io.Copy(io.Discard, w)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		w.t.Errorf("the connection is still open after %v", patience)
	}
}
