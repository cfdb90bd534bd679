package nbd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Dialer connects to exports. The zero value is ready to use.
type Dialer struct {
	// Contexts are the metadata contexts to select; nil means ContextAllocation.
	Contexts []string
	// Timeout bounds each request; 0 means no bound.
	Timeout time.Duration
	// Label is what errors call the export, in place of its URI or name. Set it
	// when the name holds a secret.
	Label string
	// Linger is how long Close waits for the server to end the connection, which ours
	// does once it has released the export; 0 means not at all.
	Linger time.Duration
	// TLS, if set, is what TCP connections are secured with, whatever the URI says, and
	// unix ones where it asks for that, in TLS 1.3. Without it, a URI that asks for TLS
	// is refused.
	TLS *tls.Config
}

// Dial connects to the export that the URI names, see ParseURI.
func Dial(ctx context.Context, uri string) (*Client, error) {
	return new(Dialer).Dial(ctx, uri)
}

// Dial connects to the export that the URI names, see ParseURI.
func (d *Dialer) Dial(ctx context.Context, uri string) (*Client, error) {
	t, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	label := uri
	if d.Label != "" {
		label = d.Label
	}
	secure, err := t.secured(d.TLS)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", label, err)
	}
	var nd net.Dialer
	nc, err := nd.DialContext(ctx, t.Network, t.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", label, err)
	}
	c, err := d.start(ctx, nc, t.Export, secure)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("connect to %s: %w", label, err)
	}
	return c, nil
}

// Start negotiates on nc and makes a client of it, over TLS if d.TLS is set. After an
// error the caller closes nc.
func (d *Dialer) Start(ctx context.Context, nc net.Conn, export string) (*Client, error) {
	return d.start(ctx, nc, export, d.TLS != nil)
}

func (d *Dialer) start(ctx context.Context, nc net.Conn, export string, secure bool) (*Client, error) {
	contexts := d.Contexts
	if contexts == nil {
		contexts = []string{ContextAllocation}
	}
	wish := Wish{Structured: true, Contexts: contexts}
	var n Negotiated
	var err error
	if secure {
		n, nc, err = negotiateTLS(ctx, nc, export, wish, d.TLS)
	} else {
		n, err = Negotiate(ctx, nc, export, wish)
	}
	if err != nil {
		return nil, err
	}
	label := d.Label
	if label == "" {
		label = fmt.Sprintf("export %q", export)
	}
	l := &link{
		nc: nc, label: label, n: n, timeout: d.Timeout, linger: d.Linger,
		sending: make(chan struct{}, 1),
		pending: make(map[uint64]*exchange),
		gone:    make(chan struct{}),
		in:      bufio.NewReaderSize(nc, 64<<10),
	}
	go l.receive()
	return &Client{link: l, ctx: context.Background()}, nil
}

// Client is a connection to an export. Methods may be called concurrently; their
// requests are in flight together. Offsets and lengths are bytes, multiples of
// BlockSize. After an error that is no Errno the connection is of no more use.
type Client struct {
	*link
	ctx context.Context
}

// link is what all copies of a Client share.
type link struct {
	nc      net.Conn
	label   string
	n       Negotiated
	timeout time.Duration
	linger  time.Duration

	sending chan struct{} // held while a message is written
	scratch []byte
	cookie  atomic.Uint64

	mu      sync.Mutex
	pending map[uint64]*exchange
	err     error // why no more requests are accepted

	in   *bufio.Reader
	gone chan struct{} // the receiver has ended
}

// ErrClosed is the error of requests after Close.
var ErrClosed = errors.New("nbd: the connection is closed")

// WithContext returns a client on the same connection whose requests end with the
// context. A request that ends so may still take effect.
func (c *Client) WithContext(ctx context.Context) *Client { return &Client{link: c.link, ctx: ctx} }

// Negotiated is what the handshake has settled.
func (l *link) Negotiated() Negotiated { return l.n }

// Size of the export in bytes.
func (l *link) Size() int64 { return l.n.Size }

// BlockSize is the alignment of requests in bytes.
func (l *link) BlockSize() int { return int(l.n.MinBlock) }

// ReadOnly tells whether writes are refused.
func (l *link) ReadOnly() bool { return l.n.ReadOnly() }

// Close tells the server good-bye and closes the connection. Requests in flight
// end with ErrClosed. The error is that of the good-bye; the connection is closed
// in any case.
func (l *link) Close() error {
	l.mu.Lock()
	first := l.err == nil
	if first {
		l.err = ErrClosed
	}
	l.mu.Unlock()
	var bye error
	if first {
		select {
		case l.sending <- struct{}{}:
			l.nc.SetWriteDeadline(time.Now().Add(time.Second))
			bye = l.write(request{cmd: cmdDisc}, nil)
			<-l.sending
		default: // somebody is in the middle of a message
		}
	}
	if first && bye == nil && l.linger > 0 {
		l.awaitEnd()
	}
	l.nc.Close()
	<-l.gone
	if bye != nil {
		return fmt.Errorf("close %s: %w", l.label, bye)
	}
	return nil
}

// awaitEnd waits until the server has closed its side.
func (l *link) awaitEnd() {
	t := time.NewTimer(l.linger)
	defer t.Stop()
	select {
	case <-l.gone:
	case <-t.C:
	}
}

// ReadAt reads len(p) bytes, as io.ReaderAt does.
func (c *Client) ReadAt(p []byte, off int64) (int, error) {
	short := off < 0 || int64(len(p)) > c.n.Size-off
	if short && off >= 0 {
		p = p[:max(0, min(int64(len(p)), c.n.Size-off))]
	}
	done := 0
	for done < len(p) {
		part := p[done:min(len(p), done+int(c.n.MaxPayload))]
		x := &exchange{req: request{cmd: cmdRead, offset: uint64(off) + uint64(done), length: uint32(len(part))}, p: part}
		if err := c.do(x, nil); err != nil {
			return done, c.failed("read", off+int64(done), len(part), err)
		}
		done += len(part)
	}
	if short {
		return done, io.EOF
	}
	return done, nil
}

// WriteAt writes p, as io.WriterAt does.
func (c *Client) WriteAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		part := p[done:min(len(p), done+int(c.n.MaxPayload))]
		x := &exchange{req: request{cmd: cmdWrite, offset: uint64(off) + uint64(done), length: uint32(len(part))}}
		if err := c.do(x, part); err != nil {
			return done, c.failed("write", off+int64(done), len(part), err)
		}
		done += len(part)
	}
	return done, nil
}

// Zero makes a range read as zero; with allocate its space stays reserved.
func (c *Client) Zero(off, n int64, allocate bool) error {
	if !c.n.offers(txSendWriteZeroes) {
		return c.writeZeroes(off, n)
	}
	flags := uint16(0)
	if allocate {
		flags = cmdFlagNoHole
	}
	return c.effect("zero", request{cmd: cmdWriteZeroes, flags: flags}, off, n)
}

// writeZeroes is Zero for servers that know only writes.
func (c *Client) writeZeroes(off, n int64) error {
	zeroes := make([]byte, min(n, 1<<20))
	for n > 0 {
		m, err := c.WriteAt(zeroes[:min(n, int64(len(zeroes)))], off)
		if err != nil {
			return err
		}
		off, n = off+int64(m), n-int64(m)
	}
	return nil
}

// Trim gives a range up. What it reads as afterwards is the server's affair; one
// that does not know the command keeps the data.
func (c *Client) Trim(off, n int64) error {
	if !c.n.offers(txSendTrim) {
		return nil
	}
	return c.effect("trim", request{cmd: cmdTrim}, off, n)
}

// Flush makes all writes that were answered before it durable.
func (c *Client) Flush() error {
	if !c.n.offers(txSendFlush) {
		return nil
	}
	if err := c.do(&exchange{req: request{cmd: cmdFlush}}, nil); err != nil {
		return fmt.Errorf("flush %s: %w", c.label, err)
	}
	return nil
}

// effect sends a command without payload for a range of any length.
func (c *Client) effect(what string, req request, off, n int64) error {
	const piece = 1 << 30
	for n > 0 {
		m := min(n, piece)
		req.offset, req.length = uint64(off), uint32(m)
		if err := c.do(&exchange{req: req}, nil); err != nil {
			return c.failed(what, off, int(m), err)
		}
		off, n = off+m, n-m
	}
	return nil
}

func (c *Client) failed(what string, off int64, n int, err error) error {
	return fmt.Errorf("%s %d bytes at %d of %s: %w", what, n, off, c.label, err)
}

// Extents calls fn for consecutive extents that cover the range exactly, until it
// returns false. Neighbours may have equal flags. If the server does not know
// ContextAllocation, the whole range is reported as data.
func (c *Client) Extents(context string, off, n int64, fn func(length int64, flags uint32) bool) error {
	id, ok := c.n.Contexts[context]
	if !ok {
		if context == ContextAllocation {
			fn(n, 0)
			return nil
		}
		return fmt.Errorf("%s has no metadata context %q", c.label, context)
	}
	const piece = 1 << 30
	for n > 0 {
		m := min(n, piece)
		x := &exchange{req: request{cmd: cmdBlockStatus, offset: uint64(off), length: uint32(m)}, context: id}
		err := c.do(x, nil)
		if err == nil && len(x.extents) == 0 {
			err = errors.New("the server reported nothing")
		}
		if err != nil {
			return c.failed("ask the status of", off, int(m), err)
		}
		for _, e := range x.extents {
			length := min(int64(e.length), n)
			if length == 0 {
				break
			}
			off, n = off+length, n-length
			if !fn(length, e.flags) {
				return nil
			}
		}
	}
	return nil
}
