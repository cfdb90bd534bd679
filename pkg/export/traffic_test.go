package export

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
)

func TestTrafficIsCounted(t *testing.T) {
	r := newRig(t, Config{})
	p := r.publish("n1", store.AccessWrite)
	c := r.dial(Name(p, 1))
	buf := make([]byte, 8192)
	_, err1 := c.WriteAt(buf, 0)
	_, err2 := c.ReadAt(buf[:4096], 4096)
	_, err3 := c.ReadAt(buf[:512], 0)
	if err := errors.Join(err1, err2, err3, c.Trim(0, 4096), c.Zero(0, 4096, false), c.Flush()); err != nil {
		t.Fatal(err)
	}
	want := Traffic{
		ID: r.img.ID, Name: "img", Reads: 2, Writes: 1, Flushes: 1, Discards: 2,
		ReadBytes: 4608, WrittenBytes: 8192, Connections: 1, Opened: 1,
	}
	if got := r.reg.Traffic(); len(got) != 1 || got[0] != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	r.dial(Name(p, 2)) // waits until the first connection is done
	want.Opened = 2
	if got := r.reg.Traffic(); len(got) != 1 || got[0] != want {
		t.Errorf("after a reconnect: got %+v, want %+v", got, want)
	}
}

// A client that was told of the new size by other means, as a kernel is, uses it on
// the connection that it has.
func TestGrownWhileInUse(t *testing.T) {
	r := newRig(t, Config{})
	p := r.publish("n1", store.AccessWrite)
	raw := r.rawConn(Name(p, 1))
	const old, size = imageSize, 2 * imageSize
	if errno := raw.write(old, 4096); errno != nbd.ENOSPC {
		t.Errorf("beyond the end: %v, want ENOSPC", errno)
	}
	if _, err := r.src.Resize(r.patience, r.img.ID, size); err != nil {
		t.Fatal(err)
	}
	if errno := raw.write(old, 4096); errno != 0 {
		t.Errorf("in the new part: %v", errno)
	}
	if errno := raw.write(size, 4096); errno != nbd.ENOSPC {
		t.Errorf("beyond the new end: %v, want ENOSPC", errno)
	}
}

// rawConn speaks simple requests and replies, as the kernel does, which knows the size
// from elsewhere.
type rawConn struct {
	t  *testing.T
	nc net.Conn
}

func (r *rig) rawConn(name string) *rawConn {
	r.t.Helper()
	nc, err := net.Dial("unix", r.unix)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { nc.Close() })
	if _, err := nbd.Negotiate(r.patience, nc, name, nbd.Wish{}); err != nil {
		r.t.Fatal(err)
	}
	return &rawConn{r.t, nc}
}

// write sends n zeroes and returns the server's answer.
func (c *rawConn) write(off uint64, n uint32) nbd.Errno {
	c.t.Helper()
	const command = 1
	b := binary.BigEndian.AppendUint32(nil, 0x25609513)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, command)
	b = binary.BigEndian.AppendUint64(b, 7)
	b = binary.BigEndian.AppendUint64(b, off)
	b = binary.BigEndian.AppendUint32(b, n)
	if _, err := c.nc.Write(append(b, make([]byte, n)...)); err != nil {
		c.t.Fatal(err)
	}
	reply := make([]byte, 16)
	if _, err := io.ReadFull(c.nc, reply); err != nil {
		c.t.Fatal(err)
	}
	return nbd.Errno(binary.BigEndian.Uint32(reply[4:]))
}
