package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// exchange is one request of a client and its reply.
type exchange struct {
	req     request
	p       []byte // for the data of a read
	context uint32 // whose extents are wanted
	extents []extent
	done    chan error // cap 1

	// busy: the receiver may touch p; dropped: nobody waits. Guarded by link.mu.
	busy, dropped bool
	idle          chan struct{} // closed when busy ends, if somebody waits for it
	got           int           // bytes of p that were received
	err           error         // of an error chunk
}

type extent struct{ length, flags uint32 }

// do sends the request and waits for its end.
func (c *Client) do(x *exchange, payload []byte) error {
	ctx := c.ctx
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	x.done = make(chan error, 1)
	x.req.cookie = c.cookie.Add(1)
	select {
	case c.sending <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	err := ctx.Err()
	if err == nil {
		err = c.register(x)
	}
	if err != nil {
		<-c.sending
		return err
	}
	c.send(ctx, x.req, payload)
	<-c.sending
	select {
	case err := <-x.done:
		return err
	case <-ctx.Done():
		c.abandon(x)
		return ctx.Err()
	}
}

// register makes the reply expected.
func (l *link) register(x *exchange) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	l.pending[x.req.cookie] = x
	return nil
}

// send writes a message. A failure in the middle of it ends the connection, which
// ends the exchange too.
func (l *link) send(ctx context.Context, req request, payload []byte) {
	var fired chan struct{}
	if ctx.Done() != nil {
		fired = make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			l.nc.SetWriteDeadline(time.Unix(1, 0)) // only a write that blocks sees it
			close(fired)
		})
		defer func() {
			if !stop() {
				<-fired
				l.nc.SetWriteDeadline(time.Time{})
			}
		}()
	}
	if err := l.write(req, payload); err != nil {
		l.fail(fmt.Errorf("send a request: %w", err))
	}
}

// write is called by who holds sending.
func (l *link) write(req request, payload []byte) error {
	const copied = 64 << 10
	if l.scratch == nil {
		l.scratch = make([]byte, requestSize+copied)
	}
	req.put(l.scratch)
	if len(payload) <= copied {
		_, err := l.nc.Write(l.scratch[:requestSize+copy(l.scratch[requestSize:], payload)])
		return err
	}
	both := net.Buffers{l.scratch[:requestSize], payload}
	_, err := both.WriteTo(l.nc)
	return err
}

// abandon ends the wait for a reply, which is dropped when it comes. After it the
// receiver does not touch x.p any more.
func (l *link) abandon(x *exchange) {
	l.mu.Lock()
	x.dropped = true
	var idle chan struct{}
	if x.busy {
		idle = make(chan struct{})
		x.idle = idle
	}
	l.mu.Unlock()
	if idle == nil {
		return
	}
	const patience = 5 * time.Second
	t := time.AfterFunc(patience, func() { l.nc.Close() }) // the server has stalled
	<-idle
	t.Stop()
}

// fail ends the connection; everything pending ends with err.
func (l *link) fail(err error) {
	l.nc.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
}

// receive is the only reader of the connection.
func (l *link) receive() {
	defer close(l.gone)
	var err error
	for err == nil {
		err = l.message()
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the server has closed the connection")
	}
	l.fail(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range l.pending {
		x.release()
		x.done <- l.err
	}
	l.pending = nil
}

// message handles one simple reply or one chunk.
func (l *link) message() error {
	var head [chunkSize]byte
	if _, err := io.ReadFull(l.in, head[:simpleSize]); err != nil {
		return err
	}
	cookie := binary.BigEndian.Uint64(head[8:])
	x, err := l.claim(cookie)
	if err != nil {
		return err
	}
	switch binary.BigEndian.Uint32(head[:]) {
	case magicSimple:
		errno := Errno(binary.BigEndian.Uint32(head[4:]))
		if errno != 0 {
			x.err = errno
		} else if x.req.cmd == cmdRead {
			if l.n.Structured {
				return errors.New("a read was answered without chunks")
			}
			if err := l.fill(x, 0, len(x.p)); err != nil {
				return err
			}
		}
		return l.settle(x, true)
	case magicStructured:
		if _, err := io.ReadFull(l.in, head[simpleSize:]); err != nil {
			return err
		}
		flags, kind := binary.BigEndian.Uint16(head[4:]), binary.BigEndian.Uint16(head[6:])
		n := binary.BigEndian.Uint32(head[16:])
		if n > MaxPayload+maxString {
			return fmt.Errorf("a chunk of %d bytes is too long", n)
		}
		if err := l.chunk(x, kind, int(n)); err != nil {
			return err
		}
		return l.settle(x, flags&chunkFlagDone != 0)
	}
	return errors.New("a reply does not begin with a magic number")
}

// claim finds the exchange of a reply and keeps its memory valid until settle.
func (l *link) claim(cookie uint64) (*exchange, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.pending[cookie]
	if x == nil {
		return nil, fmt.Errorf("a reply to cookie %d, which is not in use", cookie)
	}
	x.busy = !x.dropped
	return x, nil
}

// settle ends a message and, if it was the last of its exchange, that too.
func (l *link) settle(x *exchange, last bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	x.release()
	if !last {
		return nil
	}
	delete(l.pending, x.req.cookie)
	if x.err == nil && x.req.cmd == cmdRead && x.got != len(x.p) {
		x.done <- fmt.Errorf("the reply to a read has %d of %d bytes: %w", x.got, len(x.p), EIO)
		return errors.New("the reply to a read is incomplete")
	}
	x.done <- x.err
	return nil
}

// release ends busy; link.mu is held.
func (x *exchange) release() {
	x.busy = false
	if x.idle != nil {
		close(x.idle)
		x.idle = nil
	}
}

// fill receives n bytes of data for p[at:], or drops them.
func (l *link) fill(x *exchange, at, n int) error {
	x.got += n
	if !x.busy {
		_, err := l.in.Discard(n)
		return err
	}
	_, err := io.ReadFull(l.in, x.p[at:at+n])
	return err
}

// chunk receives the n bytes of payload of a chunk.
func (l *link) chunk(x *exchange, kind uint16, n int) error {
	if kind == chunkOffsetData || kind == chunkOffsetHole {
		return l.content(x, kind, n)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(l.in, data); err != nil {
		return err
	}
	c := cursor{b: data}
	switch {
	case kind == chunkNone && n == 0:
		return nil
	case kind == chunkBlockStatus && n >= 12 && n%8 == 4:
		if c.u32() == x.context {
			for len(c.b) > 0 {
				x.extents = append(x.extents, extent{c.u32(), c.u32()})
			}
		}
		return nil
	case kind&chunkErrorBit != 0:
		errno := Errno(c.u32())
		text := string(c.take(int(c.u16())))
		if c.bad || errno == 0 {
			break
		}
		x.err = errno
		if text != "" {
			x.err = fmt.Errorf("%s: %w", text, errno)
		}
		return nil
	}
	return fmt.Errorf("a chunk of type %d with %d bytes is malformed", kind, n)
}

// content receives a chunk of data or a hole.
func (l *link) content(x *exchange, kind uint16, n int) error {
	var head [12]byte
	need := 8
	if kind == chunkOffsetHole {
		need = 12
	}
	if n < need || kind == chunkOffsetHole && n != need {
		return fmt.Errorf("a chunk of type %d with %d bytes is malformed", kind, n)
	}
	if _, err := io.ReadFull(l.in, head[:need]); err != nil {
		return err
	}
	at := binary.BigEndian.Uint64(head[:]) - x.req.offset
	length := uint64(n - need)
	if kind == chunkOffsetHole {
		length = uint64(binary.BigEndian.Uint32(head[8:]))
	}
	if x.req.cmd != cmdRead || at > uint64(len(x.p)) || length > uint64(len(x.p))-at {
		return errors.New("a chunk of data lies outside of the request")
	}
	if kind == chunkOffsetData {
		return l.fill(x, int(at), int(length))
	}
	x.got += int(length)
	if x.busy {
		clear(x.p[at : at+length])
	}
	return nil
}
