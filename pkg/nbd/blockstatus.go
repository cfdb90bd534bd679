package nbd

import "encoding/binary"

const (
	// maxExtents bounds one answer to BLOCK_STATUS; a client asks again for the rest.
	maxExtents = 16384
	// minHole is the shortest run of zeroes that is not sent as data, in bytes.
	minHole = 32 << 10
	// maxPieces bounds the chunks of one sparse read.
	maxPieces = 128
	// holeSize is the size of a hole chunk; no header of data is longer.
	holeSize = chunkSize + 12
)

// statusSize is the buffer for the answer to a request, in bytes.
func statusSize(req request) int {
	if req.flags&cmdFlagReqOne != 0 {
		return minBuffer
	}
	// An extent is hardly ever shorter than 512 bytes.
	return min(max(8*int(req.length/512), minBuffer), 8*maxExtents)
}

// blockStatus answers with one chunk per negotiated context.
func (s *session) blockStatus(req request, b *buffer) {
	room := statusSize(req)
	for i, name := range s.contexts {
		data, err := s.extents(b.data(room)[:0], name, req)
		if err == nil && len(data) == 0 {
			err = EIO // the export has reported nothing
		}
		if err != nil {
			s.out.send(s.appendError(b.reply(headroom), req, errnoOf(err), err.Error(), false))
			return
		}
		flags := uint16(0)
		if i == len(s.contexts)-1 {
			flags = chunkFlagDone
		}
		head := appendChunk(b.reply(chunkSize+4), flags, chunkBlockStatus, req.cookie, 4+len(data))
		head = binary.BigEndian.AppendUint32(head, uint32(i+1))
		s.out.send(head[:len(head)+len(data)])
	}
}

// extents appends descriptors to b until it is full, merging equal neighbours.
// All of them lie within the range.
func (s *session) extents(b []byte, name string, req request) ([]byte, error) {
	left := int64(req.length)
	one := req.flags&cmdFlagReqOne != 0
	err := s.ex.Extents(name, int64(req.offset), left, func(length int64, flags uint64) bool {
		length = min(length, left)
		if length <= 0 {
			return left > 0
		}
		state := uint32(flags)
		if last := len(b) - 8; last >= 0 && binary.BigEndian.Uint32(b[last+4:]) == state {
			length += int64(binary.BigEndian.Uint32(b[last:]))
			left += int64(binary.BigEndian.Uint32(b[last:]))
			b = b[:last]
		} else if last >= 0 && (one || len(b)+8 > cap(b)) {
			return false
		}
		b = binary.BigEndian.AppendUint32(b, uint32(length))
		b = binary.BigEndian.AppendUint32(b, state)
		left -= length
		return left > 0
	})
	return b, err
}

// piece is a part of a read: a run of data or of zeroes.
type piece struct {
	off, n int64
	hole   bool
}

// sparseRead sends long runs of zeroes as holes. What the export says of zeroes
// was true at one instant of the request's life, which is all a read promises.
func (s *session) sparseRead(req request, b *buffer) {
	if err := s.admit(req); err != nil {
		s.out.send(s.appendError(b.reply(headroom), req, errnoOf(err), err.Error(), true))
		return
	}
	pieces := s.pieces(req)
	data := b.data(int(req.length))
	heads := make([]byte, 0, len(pieces)*holeSize)
	var send [][]byte
	for i, p := range pieces {
		flags := uint16(0)
		if i == len(pieces)-1 {
			flags = chunkFlagDone
		}
		at := len(heads)
		if p.hole {
			heads = appendChunk(heads, flags, chunkOffsetHole, req.cookie, 12)
			heads = binary.BigEndian.AppendUint64(heads, uint64(p.off))
			heads = binary.BigEndian.AppendUint32(heads, uint32(p.n))
			send = append(send, heads[at:])
			continue
		}
		run := data[p.off-int64(req.offset):][:p.n]
		if err := s.ex.Read(run, p.off); err != nil {
			req.offset = uint64(p.off)
			s.out.send(s.appendError(b.reply(headroom), req, errnoOf(err), err.Error(), true))
			return
		}
		part := request{cookie: req.cookie, offset: uint64(p.off), length: uint32(p.n)}
		heads = s.appendDataHeader(heads, part, flags)
		send = append(send, heads[at:], run)
	}
	s.out.sendAll(send)
}

// pieces cuts a read into runs of data and holes of at least minHole. If the
// export cannot tell, it is all data.
func (s *session) pieces(req request) []piece {
	c := cutter{off: int64(req.offset), pieces: make([]piece, 0, 8)}
	end := c.off + int64(req.length)
	at := c.off
	err := s.ex.Extents(ContextAllocation, at, int64(req.length), func(length int64, flags uint64) bool {
		length = min(length, end-at)
		if length > 0 {
			at += length
			c.add(length, flags&StateZero != 0)
		}
		return at < end
	})
	if err != nil {
		return []piece{{int64(req.offset), int64(req.length), false}}
	}
	c.add(end-at, false) // what the export did not tell of
	c.settle()
	return c.pieces
}

// cutter collects pieces up to off; the zero bytes after it are not in one yet.
type cutter struct {
	off, zero int64
	pieces    []piece
}

func (c *cutter) add(n int64, zero bool) {
	if n <= 0 {
		return
	}
	if !zero {
		c.settle()
		c.push(n, false)
	} else {
		c.zero += n
	}
}

// settle makes the zeroes collected so far a hole if they are enough for one.
func (c *cutter) settle() {
	if c.zero > 0 {
		c.push(c.zero, c.zero >= minHole && len(c.pieces) < maxPieces)
		c.zero = 0
	}
}

func (c *cutter) push(n int64, hole bool) {
	if last := len(c.pieces) - 1; last >= 0 && c.pieces[last].hole == hole {
		c.pieces[last].n += n
	} else {
		c.pieces = append(c.pieces, piece{c.off, n, hole})
	}
	c.off += n
}
