package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
)

// status sends a request with simple replies and returns the error number.
func (w *wire) status(flags, cmd uint16, off uint64, n uint32, payload []byte) Errno {
	w.t.Helper()
	w.send(append(header(flags, cmd, 0xc0ffee, off, n), payload...))
	b := w.skip(simpleSize)
	if binary.BigEndian.Uint32(b) != magicSimple || binary.BigEndian.Uint64(b[8:]) != 0xc0ffee {
		w.t.Fatalf("not the simple reply to it: %x", b)
	}
	return Errno(binary.BigEndian.Uint32(b[4:]))
}

const testSize = 8 << 20

type commandCase struct {
	name    string
	flags   uint16
	cmd     uint16
	off     uint64
	n       uint32
	payload []byte
	want    Errno
	ro      Errno // on a read-only export
}

func commandCases() []commandCase {
	page := bytes.Repeat([]byte{7}, 4096)
	large := bytes.Repeat([]byte{8}, 1<<20)
	return []commandCase{
		{"write", 0, cmdWrite, 4096, 4096, page, 0, EPERM},
		{"write with FUA", cmdFlagFUA, cmdWrite, 4096, 4096, page, 0, EPERM},
		{"large write", 0, cmdWrite, 4096, 1 << 20, large, 0, EPERM},
		{"write at the end", 0, cmdWrite, testSize - 4096, 4096, page, 0, EPERM},
		{"write across the end", 0, cmdWrite, testSize - 1, 4096, page, ENOSPC, EPERM},
		{"large write across the end", 0, cmdWrite, testSize - 4096, 1 << 20, large, ENOSPC, EPERM},
		{"write where the sum overflows", 0, cmdWrite, 1<<64 - 1, 4096, page, ENOSPC, EPERM},
		{"write with an unknown flag", 1 << 9, cmdWrite, 0, 4096, page, EINVAL, EINVAL},
		{"write with the flag of another", cmdFlagDF, cmdWrite, 0, 4096, page, EINVAL, EINVAL},
		{"write of nothing", 0, cmdWrite, 0, 0, nil, 0, EPERM},
		{"write of more than the maximum", 0, cmdWrite, 0, MaxPayload + 1, make([]byte, MaxPayload+1), EINVAL, EPERM},
		{"read across the end", 0, cmdRead, testSize - 1, 2, nil, EINVAL, EINVAL},
		{"read where the sum overflows", 0, cmdRead, 1<<64 - 1, 2, nil, EINVAL, EINVAL},
		{"read of more than the maximum", 0, cmdRead, 0, MaxPayload + 1, nil, EINVAL, EINVAL},
		{"read of 4 GiB", 0, cmdRead, 0, 1<<32 - 1, nil, EINVAL, EINVAL},
		{"read with an unknown flag", cmdFlagReqOne, cmdRead, 0, 1, nil, EINVAL, EINVAL},
		{"read of nothing", 0, cmdRead, testSize, 0, nil, 0, 0},
		{"flush", 0, cmdFlush, 0, 0, nil, 0, 0},
		{"flush with FUA", cmdFlagFUA, cmdFlush, 0, 0, nil, 0, 0},
		{"flush with an unknown flag", cmdFlagNoHole, cmdFlush, 0, 0, nil, EINVAL, EINVAL},
		{"trim", 0, cmdTrim, 0, 8192, nil, 0, EPERM},
		{"trim of all", cmdFlagFUA, cmdTrim, 0, testSize, nil, 0, EPERM},
		{"trim across the end", 0, cmdTrim, 4096, testSize, nil, EINVAL, EPERM},
		{"cache", 0, cmdCache, 0, testSize, nil, 0, 0},
		{"cache across the end", 0, cmdCache, 1, testSize, nil, EINVAL, EINVAL},
		{"write zeroes", cmdFlagNoHole | cmdFlagFastZero, cmdWriteZeroes, 1, 9, nil, 0, EPERM},
		{"write zeroes over all", cmdFlagFUA, cmdWriteZeroes, 0, testSize, nil, 0, EPERM},
		{"write zeroes across the end", 0, cmdWriteZeroes, 1, testSize, nil, ENOSPC, EPERM},
		{"block status without contexts", 0, cmdBlockStatus, 0, 4096, nil, EINVAL, EINVAL},
		{"resize", 0, 8, 0, 4096, nil, EINVAL, EINVAL},
		{"unknown command", 0, 4711, 0, 4096, nil, EINVAL, EINVAL},
	}
}

// Every command with every kind of fault gets the number the protocol names, and
// the connection goes on.
func TestCommands(t *testing.T) {
	for _, c := range commandCases() {
		t.Run(c.name, func(t *testing.T) {
			for _, ro := range []bool{false, true} {
				r := newRig(t, testSize, Config{})
				r.d.info.ReadOnly = ro
				want := c.want
				if ro {
					want = c.ro
				}
				w := r.simple()
				if got := w.status(c.flags, c.cmd, c.off, c.n, c.payload); got != want {
					t.Errorf("read-only %v: answered %v, want %v", ro, got, want)
				}
				if want != 0 && r.d.calls.Load() != 0 {
					t.Error("the export was called")
				}
				if got := w.status(0, cmdFlush, 0, 0, nil); got != 0 {
					t.Errorf("afterwards a flush is answered %v", got)
				}
			}
		})
	}
}

func TestReadBytes(t *testing.T) {
	r := newRig(t, testSize, Config{})
	r.d.Write([]byte("hello"), 8, false)
	w := r.simple()
	w.send(header(0, cmdRead, 1, 8, 5))
	w.expect("67446698 00000000 0000000000000001 68656c6c6f")
	w = r.structured()
	w.send(header(0, cmdRead, 2, 8, 5))
	w.expect("668e33ef 0001 0001 0000000000000002 0000000d 0000000000000008 68656c6c6f")
	w.send(header(0, cmdRead, 3, 0, 0))
	w.expect("668e33ef 0001 0000 0000000000000003 00000000")
	w.send(header(0, cmdFlush, 4, 0, 0))
	w.expect("67446698 00000000 0000000000000004")
	w.send(header(cmdFlagDF, cmdRead, 5, 0, MaxPayload+1))
	head := w.skip(chunkSize)
	text := w.skip(int(binary.BigEndian.Uint32(head[16:])))
	if kind := binary.BigEndian.Uint16(head[6:]); kind != chunkError || Errno(binary.BigEndian.Uint32(text)) != EOVERFLOW {
		t.Errorf("an unfragmented read that is too long is answered with type %#x, %x", kind, text)
	}
}

// The error of an export reaches the client as its number, with its offset.
func TestErrorsOfTheExport(t *testing.T) {
	r := newRig(t, testSize, Config{})
	var fail atomic.Pointer[error]
	r.d.before = func(string, int64, int64) error { return *fail.Load() }
	simple, structured := r.simple(), r.structured()
	for _, c := range []struct {
		err  error
		want Errno
	}{
		{errors.New("disk on fire"), EIO},
		{fmt.Errorf("wrapped: %w", ENOSPC), ENOSPC},
		{fmt.Errorf("wrapped: %w", ESHUTDOWN), ESHUTDOWN},
		{Errno(0), EIO},
	} {
		fail.Store(&c.err)
		for _, n := range []uint32{4096, 1 << 20} {
			if got := simple.status(0, cmdRead, 0, n, nil); got != c.want {
				t.Errorf("%v is answered %v, want %v", c.err, got, c.want)
			}
			structured.send(header(0, cmdRead, 9, 4096, n))
			head := structured.skip(chunkSize)
			body := cursor{b: structured.skip(int(binary.BigEndian.Uint32(head[16:])))}
			errno, text := body.u32(), string(body.take(int(body.u16())))
			if kind := binary.BigEndian.Uint16(head[6:]); kind != chunkErrorOffset || Errno(errno) != c.want || text != clip(c.err.Error()) || body.u64() != 4096 {
				t.Errorf("%v is answered with type %#x, errno %d, text %q", c.err, kind, errno, text)
			}
		}
	}
}

func TestUnalignedRequests(t *testing.T) {
	r := newRig(t, testSize, Config{})
	r.d.info.MinBlock = 4096
	told, untold := r.structured(), r.simple()
	if got := untold.status(0, cmdWrite, 1, 3, []byte("abc")); got != 0 {
		t.Errorf("a client that was not told the block size gets %v", got)
	}
	for _, b := range [][]byte{
		append(header(0, cmdWrite, 1, 1, 3), "abc"...),
		header(0, cmdRead, 1, 0, 512), header(0, cmdTrim, 1, 512, 4096), header(0, cmdWriteZeroes, 1, 4096, 1),
	} {
		told.send(b)
		head := told.skip(chunkSize)
		body := told.skip(int(binary.BigEndian.Uint32(head[16:])))
		if got := Errno(binary.BigEndian.Uint32(body)); got != EINVAL {
			t.Errorf("a client that was told gets %v", got)
		}
	}
	told.send(header(0, cmdRead, 2, 4096, 4096))
	told.skip(dataHeaderSize + 4096)
}

// chunks receives one structured reply.
func (w *wire) chunks() (kinds []uint16, bodies [][]byte) {
	w.t.Helper()
	for {
		head := w.skip(chunkSize)
		if binary.BigEndian.Uint32(head) != magicStructured {
			w.t.Fatalf("not a chunk: %x", head)
		}
		kinds = append(kinds, binary.BigEndian.Uint16(head[6:]))
		bodies = append(bodies, w.skip(int(binary.BigEndian.Uint32(head[16:]))))
		if binary.BigEndian.Uint16(head[4:])&chunkFlagDone != 0 {
			return kinds, bodies
		}
	}
}

func TestSparseReads(t *testing.T) {
	r := newRig(t, testSize, Config{})
	r.d.Write(bytes.Repeat([]byte{1}, 8192), 0, false)
	r.d.Write(bytes.Repeat([]byte{2}, 4096), 256<<10, false)
	r.d.Write(bytes.Repeat([]byte{3}, 4096), 256<<10+8192, false) // a short hole before it
	w := r.structured()
	w.send(header(0, cmdRead, 1, 4096, 512<<10))
	kinds, bodies := w.chunks()
	if want := []uint16{1, 2, 1, 2}; fmt.Sprint(kinds) != fmt.Sprint(want) {
		t.Fatalf("chunks of types %v, want %v", kinds, want)
	}
	got := make([]byte, testSize)
	end := uint64(4096)
	for i, b := range bodies {
		off := binary.BigEndian.Uint64(b)
		if off != end {
			t.Errorf("chunk %d begins at %d, want %d", i, off, end)
		}
		if kinds[i] == chunkOffsetHole {
			end += uint64(binary.BigEndian.Uint32(b[8:]))
		} else {
			end += uint64(copy(got[off:], b[8:]))
		}
	}
	if end != 4096+512<<10 || !bytes.Equal(got[4096:end], r.d.bytes(4096, int64(end)-4096)) {
		t.Errorf("the chunks end at %d or hold other data", end)
	}
	w.send(header(cmdFlagDF, cmdRead, 1, 4096, 512<<10))
	if kinds, _ := w.chunks(); fmt.Sprint(kinds) != "[1]" {
		t.Errorf("with DF: chunks of types %v", kinds)
	}
	w.send(header(0, cmdRead, 1, 1<<20, 1<<20))
	if kinds, _ := w.chunks(); fmt.Sprint(kinds) != "[2]" {
		t.Errorf("all zeroes: chunks of types %v", kinds)
	}
}

func TestBlockStatus(t *testing.T) {
	r := newRig(t, testSize, Config{})
	r.d.Write(make([]byte, 8192), 4096, false)
	w := r.structured("qemu:dirty-bitmap:one", ContextAllocation)
	for _, c := range []struct {
		name        string
		flags       uint16
		off, n      uint32
		dirty, base string
	}{
		{"merged", 0, 0, 32768, "00001000 00000000 00002000 00000001 00005000 00000000",
			"00001000 00000003 00002000 00000000 00005000 00000003"},
		{"one", cmdFlagReqOne, 0, 32768, "00001000 00000000", "00001000 00000003"},
		{"one, clipped", cmdFlagReqOne, 4096, 4096, "00001000 00000001", "00001000 00000000"},
		{"unaligned", 0, 512, 4096, "00000e00 00000000 00000200 00000001", "00000e00 00000003 00000200 00000000"},
	} {
		w.send(header(c.flags, cmdBlockStatus, 1, uint64(c.off), c.n))
		kinds, bodies := w.chunks()
		if fmt.Sprint(kinds) != "[5 5]" {
			t.Fatalf("%s: chunks of types %v", c.name, kinds)
		}
		for i, want := range []string{"00000001" + c.dirty, "00000002" + c.base} {
			if !bytes.Equal(bodies[i], unhex(t, want)) {
				t.Errorf("%s: context %d has %x, want %s", c.name, i, bodies[i], want)
			}
		}
	}
	w.send(header(0, cmdBlockStatus, 1, 0, 0))
	if kinds, _ := w.chunks(); kinds[0] != chunkError {
		t.Errorf("status of nothing is answered with type %#x", kinds[0])
	}
	w.send(header(0, cmdBlockStatus, 1, testSize-4096, 8192))
	if kinds, _ := w.chunks(); kinds[0] != chunkError {
		t.Errorf("status beyond the end is answered with type %#x", kinds[0])
	}
}

// A fragmented export cannot make an answer grow without bound.
func TestBlockStatusIsCapped(t *testing.T) {
	const size = 256 << 20
	r := newRig(t, size, Config{})
	for i := range r.d.alloc {
		r.d.alloc[i] = i%2 == 0
	}
	w := r.structured(ContextAllocation)
	w.send(header(0, cmdBlockStatus, 1, 0, size))
	_, bodies := w.chunks()
	if n := (len(bodies[0]) - 4) / 8; n != maxExtents {
		t.Errorf("answered with %d extents, want %d", n, maxExtents)
	}
}

func TestBadMagicEnds(t *testing.T) {
	r := newRig(t, testSize, Config{})
	w := r.simple()
	w.send(make([]byte, requestSize))
	w.expectEnd()
}

func TestHugeWriteEnds(t *testing.T) {
	r := newRig(t, testSize, Config{})
	w := r.simple()
	w.send(header(0, cmdWrite, 1, 0, drainMax+1))
	w.expectEnd()
}

func TestDisconnectAnswersWhatWasStarted(t *testing.T) {
	r := newRig(t, testSize, Config{})
	w := r.simple()
	w.send(append(header(0, cmdFlush, 1, 0, 0), header(0, cmdDisc, 2, 0, 0)...))
	w.expect("67446698 00000000 0000000000000001")
	w.expectEnd()
}
