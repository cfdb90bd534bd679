package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
	"unicode/utf8"
)

const (
	// maxOptions bounds the options of one handshake.
	maxOptions = 256
	// maxOptionData bounds the data of an option that is looked at, in bytes.
	maxOptionData = 32 << 10
	// maxOptionDrain bounds the data of an option that is dropped and answered with
	// an error. A longer one ends the connection.
	maxOptionDrain = 1 << 20
	// maxContexts bounds the metadata contexts a client may select.
	maxContexts = 16
	// maxQueries bounds the queries for contexts in one option.
	maxQueries = 128
	// maxListed bounds the entries of one answer.
	maxListed = 16384
)

// handshake is the state before the transmission phase.
type handshake struct {
	c        *Conn
	nc       net.Conn  // c.nc, or TLS over it
	due      time.Time // when it must be over
	noZeroes bool
	aligned  bool

	structured  bool
	contextName string // the export that contexts belong to
	contexts    []string
}

var errAborted = errors.New("the client gave up")

// run negotiates until an export is open. Without export and error, the client
// has ended the connection properly.
func (h *handshake) run() (Export, error) {
	h.nc = h.c.nc
	h.due = time.Now().Add(h.c.srv.cfg.HandshakeTimeout)
	h.arm()
	ex, err := h.negotiate()
	if errors.Is(err, errAborted) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	h.c.nc.SetDeadline(time.Time{})
	if h.c.draining.Load() { // the deadline that told so may just have been cleared
		h.c.drain()
	}
	return ex, nil
}

// arm gives the client what is left of the time for the handshake.
func (h *handshake) arm() {
	h.c.nc.SetDeadline(h.due)
	if h.c.draining.Load() {
		h.c.drain()
	}
}

func (h *handshake) negotiate() (Export, error) {
	hello := binary.BigEndian.AppendUint64(nil, magicServer)
	hello = binary.BigEndian.AppendUint64(hello, magicOption)
	hello = binary.BigEndian.AppendUint16(hello, flagFixedNewstyle|flagNoZeroes)
	if err := h.write(hello); err != nil {
		return nil, err
	}
	var b [4]byte
	if _, err := io.ReadFull(h.nc, b[:]); err != nil {
		if err == io.EOF {
			return nil, errAborted // a probe of the port
		}
		return nil, fmt.Errorf("read client flags: %w", err)
	}
	flags := binary.BigEndian.Uint32(b[:])
	if flags&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return nil, fmt.Errorf("unknown client flags %#x", flags)
	}
	h.noZeroes = flags&flagNoZeroes != 0
	for range maxOptions {
		ex, err := h.option()
		if ex != nil || err != nil {
			return ex, err
		}
		if flags&flagFixedNewstyle == 0 {
			return nil, errors.New("a client without fixed newstyle sent an option")
		}
	}
	return nil, fmt.Errorf("more than %d options", maxOptions)
}

// option reads and answers one option. It returns the export that was chosen.
func (h *handshake) option() (Export, error) {
	var head [optionSize]byte
	if _, err := io.ReadFull(h.nc, head[:]); err != nil {
		if err == io.EOF {
			return nil, errAborted
		}
		return nil, fmt.Errorf("read an option: %w", err)
	}
	if binary.BigEndian.Uint64(head[:]) != magicOption {
		return nil, errors.New("an option does not begin with the magic number")
	}
	opt := binary.BigEndian.Uint32(head[8:])
	n := binary.BigEndian.Uint32(head[12:])
	if n > maxOptionData {
		return nil, h.tooLong(opt, n)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(h.nc, data); err != nil {
		return nil, fmt.Errorf("read option %d: %w", opt, err)
	}
	return h.answer(opt, data)
}

func (h *handshake) answer(opt uint32, data []byte) (Export, error) {
	if h.clear(opt) {
		return nil, h.refuseClear(opt)
	}
	switch opt {
	case optExportName:
		return h.exportName(data)
	case optGo:
		return h.info(opt, data)
	case optInfo:
		return h.info(opt, data)
	case optAbort:
		return nil, errors.Join(errAborted, h.reply(opt, repAck, nil))
	case optList:
		return nil, h.list(data)
	case optStructuredReply:
		if len(data) > 0 {
			return nil, h.refuse(opt, repErrInvalid, "the option takes no data")
		}
		h.structured = true
		return nil, h.reply(opt, repAck, nil)
	case optListMetaContext:
		return nil, h.listContexts(data)
	case optSetMetaContext:
		return nil, h.setContexts(data)
	case optStartTLS:
		return nil, h.startTLS(data)
	}
	return nil, h.refuse(opt, repErrUnsup, "unknown option")
}

// tooLong keeps the framing after an option whose data is not worth reading.
func (h *handshake) tooLong(opt, n uint32) error {
	if n > maxOptionDrain || opt == optExportName {
		return fmt.Errorf("option %d has %d bytes of data", opt, n)
	}
	if _, err := io.CopyN(io.Discard, h.nc, int64(n)); err != nil {
		return fmt.Errorf("drop option %d: %w", opt, err)
	}
	if h.clear(opt) {
		return h.refuseClear(opt)
	}
	switch opt {
	case optAbort:
		return errors.Join(errAborted, h.reply(opt, repAck, nil))
	case optList, optStructuredReply, optStartTLS:
		return h.refuse(opt, repErrInvalid, "the option takes no data")
	case optInfo, optGo, optListMetaContext, optSetMetaContext:
		if opt == optSetMetaContext {
			h.contexts, h.contextName = nil, ""
		}
		return h.refuse(opt, repErrTooBig, "the option is too long")
	}
	return h.refuse(opt, repErrUnsup, "unknown option")
}

// exportName is the oldest way into the transmission phase. It knows no error.
func (h *handshake) exportName(data []byte) (Export, error) {
	name := string(data)
	if !validName(name) {
		return nil, errors.New("the export name is malformed")
	}
	ex, err := h.open(name)
	if err != nil {
		return nil, err
	}
	info := ex.Info().normal()
	b := binary.BigEndian.AppendUint64(nil, uint64(info.Size))
	b = binary.BigEndian.AppendUint16(b, info.flags(h.structured))
	if !h.noZeroes {
		b = append(b, make([]byte, 124)...)
	}
	return h.enter(ex, h.write(b))
}

// open chooses an export. The time that takes is not the client's.
func (h *handshake) open(name string) (Export, error) {
	if err := h.c.srv.opening(h.c); err != nil {
		return nil, err
	}
	h.c.nc.SetDeadline(time.Time{})
	begun := time.Now()
	ex, err := h.c.srv.backend.Open(h.c.ctx, name, h.c)
	h.due = h.due.Add(time.Since(begun))
	h.arm()
	if err != nil {
		h.c.srv.reopen(h.c)
		return nil, fmt.Errorf("open the export: %w", err) // its name may hold a secret
	}
	if name != h.contextName {
		h.contexts = nil
	}
	return ex, nil
}

// enter completes the choice of an export, or closes it if the client is gone.
func (h *handshake) enter(ex Export, err error) (Export, error) {
	if err != nil {
		return nil, errors.Join(err, ex.Close())
	}
	return ex, nil
}

// info answers INFO and GO.
func (h *handshake) info(opt uint32, data []byte) (Export, error) {
	c := cursor{b: data}
	name := c.str()
	asked := make([]uint16, c.u16())
	for i := range asked {
		asked[i] = c.u16()
	}
	if c.bad || len(c.b) > 0 || !validName(name) {
		return nil, h.refuse(opt, repErrInvalid, "the option is malformed")
	}
	if opt == optInfo {
		info, err := h.c.srv.backend.Describe(h.c.ctx, name, h.c)
		if err != nil {
			return nil, h.refuseFor(opt, err)
		}
		return nil, h.write(h.infoReplies(opt, name, info, asked))
	}
	ex, err := h.open(name)
	if err != nil {
		return nil, h.refuseFor(opt, err)
	}
	h.aligned = true // the block size is always among the replies
	return h.enter(ex, h.write(h.infoReplies(opt, name, ex.Info(), asked)))
}

func (h *handshake) infoReplies(opt uint32, name string, info ExportInfo, asked []uint16) []byte {
	info = info.normal()
	d := binary.BigEndian.AppendUint16(nil, infoExport)
	d = binary.BigEndian.AppendUint64(d, uint64(info.Size))
	d = binary.BigEndian.AppendUint16(d, info.flags(h.structured))
	b := appendReply(nil, opt, repInfo, d)
	d = binary.BigEndian.AppendUint16(nil, infoBlockSize)
	d = binary.BigEndian.AppendUint32(d, info.MinBlock)
	d = binary.BigEndian.AppendUint32(d, info.PreferredBlock)
	d = binary.BigEndian.AppendUint32(d, info.MaxPayload)
	b = appendReply(b, opt, repInfo, d)
	if slices.Contains(asked, infoName) {
		b = appendReply(b, opt, repInfo, append([]byte{0, infoName}, name...))
	}
	if slices.Contains(asked, infoDescription) && info.Description != "" {
		b = appendReply(b, opt, repInfo, append([]byte{0, infoDescription}, info.Description...))
	}
	return appendReply(b, opt, repAck, nil)
}

func (h *handshake) reply(opt, kind uint32, data []byte) error {
	return h.write(appendReply(nil, opt, kind, data))
}

// refuse answers an option with an error and its reason.
func (h *handshake) refuse(opt, kind uint32, why string) error {
	return h.reply(opt, kind, []byte(clip(why)))
}

func (h *handshake) refuseFor(opt uint32, err error) error {
	if h.c.isCut() {
		return errCut
	}
	why, text := refusalOf(err)
	return h.refuse(opt, uint32(why), text)
}

func (h *handshake) write(b []byte) error {
	if _, err := h.nc.Write(b); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

// validName accepts what the protocol calls a string.
func validName(s string) bool {
	return len(s) <= maxString && utf8.ValidString(s) && !slices.Contains([]byte(s), 0)
}
