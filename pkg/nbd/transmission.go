package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

const (
	// drainMax is the largest payload that is read and dropped to keep a connection
	// whose request was refused. A longer one ends the connection.
	drainMax = 4 * MaxPayload
	// replyRoom is enough for any reply without data.
	replyRoom = 1024
	// maxMessage clips the text of an error, in bytes.
	maxMessage = 512
)

var errCut = errors.New("the connection was cut")

// handle serves one request or passes it on. driving is false when a stand-in has
// taken over; then the caller may only leave.
func (s *session) handle(req request) (driving bool, err error) {
	if errno, why := s.refuse(req); errno != 0 {
		return true, s.reject(req, errno, why)
	}
	if req.length == 0 && req.cmd != cmdFlush {
		s.reserve(replyRoom)
		s.t.out = s.appendOK(s.t.out, req)
		return true, nil
	}
	if s.inline(req) {
		return s.serveInline(req), nil
	}
	return true, s.dispatch(req)
}

// refuse says which requests are answered without asking the export.
func (s *session) refuse(req request) (Errno, string) {
	allowed, known := allowedFlags(req.cmd)
	switch {
	case !known:
		return EINVAL, "unknown command"
	case req.flags&^allowed != 0:
		return EINVAL, "unknown command flag"
	case req.cmd == cmdFlush:
		return 0, ""
	case req.writes() && s.info.ReadOnly:
		return EPERM, "the export is read-only"
	case req.cmd == cmdBlockStatus && len(s.contexts) == 0:
		return EINVAL, "no metadata context was negotiated"
	case req.cmd == cmdBlockStatus && req.length == 0:
		return EINVAL, "block status of nothing"
	case s.tooLarge(req):
		if req.cmd == cmdRead && req.flags&cmdFlagDF != 0 {
			return EOVERFLOW, "the read is too large to send in one piece"
		}
		return EINVAL, "the payload exceeds the maximum"
	}
	if !s.within(req) {
		if req.cmd == cmdWrite || req.cmd == cmdWriteZeroes {
			return ENOSPC, "the request ends beyond the export"
		}
		return EINVAL, "the request ends beyond the export"
	}
	mask := uint64(s.info.MinBlock) - 1
	if s.aligned && (req.offset|uint64(req.length))&mask != 0 {
		return EINVAL, "the request is not aligned to the minimum block size"
	}
	return 0, ""
}

// within tells whether the request lies in the export. One that does not is the sign
// that the export may have been made larger: the client was told by other means than
// this connection, whose protocol has none.
func (s *session) within(req request) bool {
	fits := func() bool {
		size := uint64(s.info.Size)
		return req.offset <= size && uint64(req.length) <= size-req.offset
	}
	if fits() {
		return true
	}
	r, ok := s.ex.(Resizable)
	if !ok {
		return false
	}
	s.info.Size = max(s.info.Size, r.Size())
	return fits()
}

// allowedFlags are the flags a command may carry. FUA is allowed on all.
func allowedFlags(cmd uint16) (uint16, bool) {
	switch cmd {
	case cmdRead:
		return cmdFlagFUA | cmdFlagDF, true
	case cmdWrite, cmdDisc, cmdFlush, cmdTrim, cmdCache:
		return cmdFlagFUA, true
	case cmdWriteZeroes:
		return cmdFlagFUA | cmdFlagNoHole | cmdFlagFastZero, true
	case cmdBlockStatus:
		return cmdFlagFUA | cmdFlagReqOne, true
	}
	return 0, false
}

// writes tells whether the request changes the export.
func (r request) writes() bool {
	return r.cmd == cmdWrite || r.cmd == cmdTrim || r.cmd == cmdWriteZeroes
}

func (s *session) tooLarge(req request) bool {
	return (req.cmd == cmdRead || req.cmd == cmdWrite) && req.length > s.info.MaxPayload
}

// reject answers with an error, after dropping the payload.
func (s *session) reject(req request, errno Errno, why string) error {
	if req.cmd == cmdWrite {
		if req.length > drainMax {
			return fmt.Errorf("a write of %d bytes is refused: %s", req.length, why)
		}
		if err := s.drain(int(req.length)); err != nil {
			return err
		}
	}
	s.reserve(replyRoom)
	s.t.out = s.appendError(s.t.out, req, errno, why, false)
	return nil
}

// reserve makes sure that n more bytes fit into the replies of the turn.
func (s *session) reserve(n int) {
	if cap(s.t.out)-len(s.t.out) < n {
		s.flush()
	}
}

// inline tells whether the driver handles the request itself.
func (s *session) inline(req request) bool {
	if s.slow > 0 {
		s.slow--
		return false
	}
	switch req.cmd {
	case cmdRead:
		return req.length <= inlineMax
	case cmdWrite, cmdTrim, cmdWriteZeroes:
		return req.length <= inlineMax && req.flags&cmdFlagFUA == 0
	}
	return false
}

// serveInline handles a request within the turn; false if a stand-in drives now.
func (s *session) serveInline(req request) (driving bool) {
	room := replyRoom
	if req.cmd == cmdRead {
		room += int(req.length)
	}
	s.reserve(room)
	t := s.t
	payload := t.in[t.r : t.r+req.inlinePayload()]
	t.r += len(payload)
	mark := len(t.out)
	word := s.begin()
	reply := s.serve(t.out[mark:mark], payload, req)
	if s.finishCall(word) {
		t.out = t.out[:mark+len(reply)]
		return true
	}
	s.out.send(reply)
	s.retire(t)
	return false
}

// dispatch passes a request to a worker, with its payload if it has one.
func (s *session) dispatch(req request) error {
	n := 0
	switch req.cmd {
	case cmdRead, cmdWrite:
		n = int(req.length)
	case cmdBlockStatus:
		n = statusSize(req)
	}
	b, err := s.buffer(n)
	if err != nil {
		return err
	}
	if req.cmd == cmdWrite {
		if err := s.payload(b.data(n)); err != nil {
			s.freeBuffer(b)
			<-s.slots
			return err
		}
	}
	if s.conn.isCut() {
		s.freeBuffer(b)
		<-s.slots
		return errCut
	}
	s.enter()
	go s.work(req, b)
	return nil
}

// buffer waits for a slot and a buffer of n bytes, within this connection's share
// and the server's budget. Nothing that is ready to be sent waits with it.
func (s *session) buffer(n int) (*buffer, error) {
	select {
	case s.slots <- struct{}{}:
	default:
		s.flush()
		select {
		case s.slots <- struct{}{}:
		case <-s.conn.cut:
			return nil, errCut
		}
	}
	k, cost := kindOf(n), costOf(n)
	for s.held[k].Load() > 0 && s.held[k].Load()+cost > s.share(k) {
		s.flush()
		select {
		case <-s.freed:
		case <-s.conn.cut:
			<-s.slots
			return nil, errCut
		}
	}
	b := s.mem.tryBuffer(s.conn.peer, n)
	if b == nil {
		s.flush()
		b = s.mem.buffer(s.conn.peer, n, s.conn.cut)
	}
	if b == nil {
		<-s.slots
		return nil, errCut
	}
	s.held[k].Add(cost)
	return b, nil
}

// share is what this connection may hold of a kind of buffers. The first one it gets
// in any case.
func (s *session) share(k kind) int64 {
	if s.limited != nil && s.limited.Limits() {
		return s.mem.smallShare(k)
	}
	return s.mem.share(k)
}

// admit lets a request wait for its turn.
func (s *session) admit(req request) error {
	if s.limited == nil {
		return nil
	}
	switch req.cmd {
	case cmdRead, cmdWrite:
		return s.limited.Admit(int64(req.length))
	case cmdTrim, cmdWriteZeroes:
		return s.limited.Admit(0)
	}
	return nil
}

func (s *session) freeBuffer(b *buffer) {
	s.held[b.kind].Add(-int64(len(b.mem)))
	s.mem.freeBuffer(s.conn.peer, b)
	select {
	case s.freed <- struct{}{}:
	default:
	}
}

// work handles one request outside of the driver.
func (s *session) work(req request, b *buffer) {
	defer s.leave()
	switch {
	case req.cmd == cmdBlockStatus:
		s.blockStatus(req, b)
	case req.cmd == cmdRead && s.structured && req.flags&cmdFlagDF == 0 && req.length > inlineMax:
		s.sparseRead(req, b)
	case req.cmd == cmdRead:
		s.out.send(s.serve(b.reply(s.dataHeader()), nil, req))
	case req.cmd == cmdWrite:
		s.out.send(s.serve(b.reply(headroom), b.data(int(req.length)), req))
	default:
		s.out.send(s.serve(b.reply(headroom), nil, req))
	}
	s.freeBuffer(b)
	<-s.slots
}

// dataHeader is the size of what precedes the data of a read, in bytes.
func (s *session) dataHeader() int {
	if s.structured {
		return dataHeaderSize
	}
	return simpleSize
}

// serve calls the export and appends the reply to b, which has room for it. The
// data of a read is placed there at once.
func (s *session) serve(b, payload []byte, req request) []byte {
	off, n := int64(req.offset), int64(req.length)
	fua := req.flags&cmdFlagFUA != 0
	err := s.admit(req)
	if err != nil {
		return s.appendError(b, req, errnoOf(err), err.Error(), req.cmd == cmdRead)
	}
	switch req.cmd {
	case cmdRead:
		data := b[s.dataHeader() : s.dataHeader()+int(n)]
		if err = s.ex.Read(data, off); err == nil {
			return s.appendDataHeader(b, req, chunkFlagDone)[:s.dataHeader()+int(n)]
		}
	case cmdWrite:
		err = s.ex.Write(payload, off, fua)
	case cmdFlush:
		err = s.ex.Flush()
	case cmdTrim:
		err = s.ex.Trim(off, n, fua)
	case cmdWriteZeroes:
		err = s.ex.Zero(off, n, fua, req.flags&cmdFlagNoHole != 0)
	case cmdCache:
		err = s.ex.Cache(off, n)
	}
	if err != nil {
		return s.appendError(b, req, errnoOf(err), err.Error(), req.cmd == cmdRead)
	}
	return s.appendOK(b, req)
}

// appendDataHeader appends what precedes the data of a read.
func (s *session) appendDataHeader(b []byte, req request, flags uint16) []byte {
	if !s.structured {
		return appendSimple(b, 0, req.cookie)
	}
	b = appendChunk(b, flags, chunkOffsetData, req.cookie, 8+int(req.length))
	return binary.BigEndian.AppendUint64(b, req.offset)
}

// appendOK appends a reply without data.
func (s *session) appendOK(b []byte, req request) []byte {
	if s.structured && req.cmd == cmdRead {
		return appendChunk(b, chunkFlagDone, chunkNone, req.cookie, 0)
	}
	return appendSimple(b, 0, req.cookie)
}

// appendError appends an error reply, for structured clients with a text and, if
// located, with the offset from which on nothing is known.
func (s *session) appendError(b []byte, req request, errno Errno, text string, located bool) []byte {
	if !s.structured {
		return appendSimple(b, errno, req.cookie)
	}
	text = clip(text)
	kind, n := uint16(chunkError), 6+len(text)
	if located {
		kind, n = chunkErrorOffset, n+8
	}
	b = appendChunk(b, chunkFlagDone, kind, req.cookie, n)
	b = binary.BigEndian.AppendUint32(b, uint32(errno))
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	b = append(b, text...)
	if located {
		b = binary.BigEndian.AppendUint64(b, req.offset)
	}
	return b
}

// clip shortens a text to maxMessage bytes of valid UTF-8.
func clip(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxMessage)], "")
}
