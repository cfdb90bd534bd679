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

// Negotiated is what a handshake has settled.
type Negotiated struct {
	// Size of the export in bytes.
	Size int64
	// Flags are the transmission flags as the server sent them.
	Flags uint16
	// MinBlock, PreferredBlock and MaxPayload are in bytes; the protocol's defaults
	// if the server did not say.
	MinBlock, PreferredBlock, MaxPayload uint32
	// Structured: the server sends structured replies.
	Structured bool
	// Contexts maps the selected metadata contexts to their ids.
	Contexts map[string]uint32
}

// ReadOnly tells whether the export refuses writes.
func (n Negotiated) ReadOnly() bool { return n.Flags&txReadOnly != 0 }

// offers tells whether the server has set a transmission flag.
func (n Negotiated) offers(flag uint16) bool { return n.Flags&flag != 0 }

// Wish says what a client asks for in a handshake.
type Wish struct {
	// Structured asks for structured replies. A socket that is handed to the Linux
	// kernel must do without.
	Structured bool
	// Contexts are the metadata contexts to select; they need Structured. Those
	// that the server does not know are left out.
	Contexts []string
}

// Negotiate performs the client's side of the handshake on nc, up to the first
// request. It reads nothing beyond, so that nc may be handed on. When the context
// ends or an error occurs, nc is of no more use; the caller closes it. A refusal
// by the server is a *Refusal.
func Negotiate(ctx context.Context, nc net.Conn, export string, w Wish) (Negotiated, error) {
	g := newGreeter(nc, export)
	err := within(ctx, nc, func() error {
		if err := g.greet(); err != nil {
			return err
		}
		return g.choose(w)
	})
	if err != nil {
		return Negotiated{}, fmt.Errorf("negotiate: %w", err)
	}
	return g.n, nil
}

// within bounds what is done on nc by the context, whose error then is the result.
func within(ctx context.Context, nc net.Conn, do func() error) error {
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err := do()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	nc.SetDeadline(time.Time{})
	return nil
}

// greeter is the client's side of a handshake.
type greeter struct {
	nc       net.Conn
	export   string
	n        Negotiated
	noZeroes bool
}

func newGreeter(nc net.Conn, export string) *greeter {
	return &greeter{nc: nc, export: export, n: Negotiated{MinBlock: 1, PreferredBlock: 4096, MaxPayload: MaxPayload}}
}

// greet takes the greeting and answers it.
func (g *greeter) greet() error {
	var hello [18]byte
	if _, err := io.ReadFull(g.nc, hello[:]); err != nil {
		return fmt.Errorf("read the greeting: %w", err)
	}
	if binary.BigEndian.Uint64(hello[:]) != magicServer || binary.BigEndian.Uint64(hello[8:]) != magicOption {
		return errors.New("the peer is no NBD server of the newstyle protocol")
	}
	flags := binary.BigEndian.Uint16(hello[16:])
	if flags&flagFixedNewstyle == 0 {
		return errors.New("the server does not speak fixed newstyle")
	}
	g.noZeroes = flags&flagNoZeroes != 0
	answer := binary.BigEndian.AppendUint32(nil, uint32(flags&(flagFixedNewstyle|flagNoZeroes)))
	if _, err := g.nc.Write(answer); err != nil {
		return fmt.Errorf("send the client's flags: %w", err)
	}
	return nil
}

// choose asks for what is wished and chooses the export.
func (g *greeter) choose(w Wish) error {
	if w.Structured {
		ok, err := g.accepted(optStructuredReply, nil, nil)
		if err != nil {
			return err
		}
		g.n.Structured = ok
	}
	if g.n.Structured && len(w.Contexts) > 0 {
		if err := g.selectContexts(w.Contexts); err != nil {
			return err
		}
	}
	return g.enter()
}

func (g *greeter) selectContexts(names []string) error {
	data := appendString(nil, g.export)
	data = binary.BigEndian.AppendUint32(data, uint32(len(names)))
	for _, name := range names {
		data = appendString(data, name)
	}
	g.n.Contexts = make(map[string]uint32)
	_, err := g.accepted(optSetMetaContext, data, func(kind uint32, d []byte) error {
		if kind == repMetaContext && len(d) > 4 {
			g.n.Contexts[string(d[4:])] = binary.BigEndian.Uint32(d)
		}
		return nil
	})
	return err
}

// enter chooses the export with GO, or with EXPORT_NAME from a server that knows
// only that.
func (g *greeter) enter() error {
	data := appendString(nil, g.export)
	data = binary.BigEndian.AppendUint16(data, 1)
	data = binary.BigEndian.AppendUint16(data, infoBlockSize)
	told := false
	ok, err := g.accepted(optGo, data, func(kind uint32, d []byte) error {
		told = g.learn(kind, d) || told
		return nil
	})
	if err != nil {
		return err
	}
	if !ok {
		return g.enterByName()
	}
	if !told {
		return errors.New("the server did not tell the size of the export")
	}
	return nil
}

// learn takes in one reply to GO and tells whether it was the size.
func (g *greeter) learn(kind uint32, d []byte) bool {
	if kind != repInfo || len(d) < 2 {
		return false
	}
	c := cursor{b: d}
	switch c.u16() {
	case infoExport:
		g.n.Size, g.n.Flags = int64(c.u64()), c.u16()
		return !c.bad && g.n.Size >= 0
	case infoBlockSize:
		minimum, preferred, most := c.u32(), c.u32(), c.u32()
		if !c.bad && minimum > 0 && most >= minimum {
			g.n.MinBlock, g.n.PreferredBlock = minimum, preferred
			g.n.MaxPayload = min(most, MaxPayload)
		}
	}
	return false
}

func (g *greeter) enterByName() error {
	if _, err := g.nc.Write(appendOption(nil, optExportName, []byte(g.export))); err != nil {
		return fmt.Errorf("send the export's name: %w", err)
	}
	b := make([]byte, 10, 10+124)
	if !g.noZeroes {
		b = b[:cap(b)]
	}
	if _, err := io.ReadFull(g.nc, b); err != nil {
		return fmt.Errorf("the server did not accept the export: %w", err)
	}
	g.n.Size, g.n.Flags = int64(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint16(b[8:])
	return nil
}

// accepted sends an option and passes the replies before the last one to each. It
// is false if the server does not know the option.
func (g *greeter) accepted(opt uint32, data []byte, each func(kind uint32, d []byte) error) (bool, error) {
	if _, err := g.nc.Write(appendOption(nil, opt, data)); err != nil {
		return false, fmt.Errorf("send option %d: %w", opt, err)
	}
	for {
		kind, d, err := g.reply(opt)
		switch {
		case err != nil:
			return false, err
		case kind == repAck:
			return true, nil
		case kind == repErrUnsup:
			return false, nil
		case kind&repErr != 0:
			why := string(d)
			if why == "" {
				why = fmt.Sprintf("the server refused with error %#x", kind)
			}
			return false, &Refusal{Reason: Reason(kind), Message: why}
		}
		if each != nil {
			if err := each(kind, d); err != nil {
				return false, err
			}
		}
	}
}

func (g *greeter) reply(opt uint32) (kind uint32, data []byte, err error) {
	var head [replySize]byte
	if _, err := io.ReadFull(g.nc, head[:]); err != nil {
		return 0, nil, fmt.Errorf("read the reply to option %d: %w", opt, err)
	}
	c := cursor{b: head[:]}
	magic, to := c.u64(), c.u32()
	kind, n := c.u32(), c.u32()
	if magic != magicReply || to != opt || n > maxOptionData {
		return 0, nil, fmt.Errorf("the reply to option %d is malformed", opt)
	}
	data = make([]byte, n)
	if _, err := io.ReadFull(g.nc, data); err != nil {
		return 0, nil, fmt.Errorf("read the reply to option %d: %w", opt, err)
	}
	return kind, data, nil
}
