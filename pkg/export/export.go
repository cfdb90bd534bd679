package export

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
)

// export is one connection's use of a device.
type export struct {
	r        *Registry
	o        *object
	conn     *nbd.Conn
	epoch    uint64
	readOnly bool
	cut      <-chan struct{} // closed when the connection is cut
	held     *holding        // nil where one process alone serves the store

	dev   store.Device
	info  nbd.ExportInfo
	bases sync.Map // snapshot name → store.ID, of bitmaps that were asked for

	unmarked atomic.Bool // see mark
	marking  sync.Mutex
}

var (
	_ nbd.Limited   = (*export)(nil)
	_ nbd.Resizable = (*export)(nil)
)

// describe turns a description of the store into one of the protocol.
func describe(i store.Info, readOnly bool) nbd.ExportInfo {
	return nbd.ExportInfo{
		Size:     i.Size,
		ReadOnly: readOnly || i.Kind == store.KindSnapshot || i.State == store.StateReadOnly,
		MinBlock: uint32(i.BlockSize),
		// Whole blocks of the store are written without reading.
		PreferredBlock: store.Block,
		MultiConn:      true, // all connections share one device
		Description:    description(i),
	}
}

func description(i store.Info) string { return string(i.Kind) + " " + i.Ref() }

// Info describes the export as it was when it was opened.
func (e *export) Info() nbd.ExportInfo { return e.info }

// Size implements nbd.Resizable.
func (e *export) Size() int64 { return e.dev.Info().Size }

// fail numbers an error for the client. When the device is not this client's any
// more, the connection ends without a reply.
func (e *export) fail(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, store.ErrFenced) || errors.Is(err, store.ErrClosed) {
		e.conn.Cut()
	}
	return number(err)
}

// Limits implements nbd.Limited.
func (e *export) Limits() bool { return e.o.limit.on.Load() }

// Admit implements nbd.Limited. When the connection is cut the wait ends.
func (e *export) Admit(bytes int64) error {
	if !e.o.limit.on.Load() || e.o.limit.take(e.cut, bytes) {
		return nil
	}
	return e.fail(fmt.Errorf("waiting for its turn: %w", store.ErrFenced))
}

// Read implements nbd.Export.
func (e *export) Read(p []byte, off int64) error {
	_, err := e.dev.ReadAt(p, off)
	t := &e.o.traffic
	return e.fail(t.count(&t.reads, &t.readBytes, int64(len(p)), err))
}

// Write implements nbd.Export.
func (e *export) Write(p []byte, off int64, fua bool) error {
	if err := e.mark(); err != nil {
		return e.fail(err)
	}
	_, err := e.dev.WriteAt(p, off)
	t := &e.o.traffic
	return e.settle(t.count(&t.writes, &t.writtenBytes, int64(len(p)), err), fua)
}

// settle makes what was just done durable if fua is set.
func (e *export) settle(err error, fua bool) error {
	if err == nil && fua {
		err = e.dev.Flush()
	}
	return e.fail(err)
}

// Flush implements nbd.Export.
func (e *export) Flush() error {
	t := &e.o.traffic
	return e.fail(t.count(&t.flushes, nil, 0, e.dev.Flush()))
}

// Trim implements nbd.Export.
func (e *export) Trim(off, n int64, fua bool) error {
	if err := e.mark(); err != nil {
		return e.fail(err)
	}
	t := &e.o.traffic
	return e.settle(t.count(&t.discards, nil, 0, e.dev.Discard(off, n)), fua)
}

// Zero implements nbd.Export.
func (e *export) Zero(off, n int64, fua, noHole bool) error {
	if err := e.mark(); err != nil {
		return e.fail(err)
	}
	t := &e.o.traffic
	return e.settle(t.count(&t.discards, nil, 0, e.dev.Zero(off, n, noHole)), fua)
}

// Cache implements nbd.Export. The host's page cache needs no telling.
func (e *export) Cache(_, _ int64) error { return nil }

// Extents implements nbd.Export.
func (e *export) Extents(context string, off, n int64, emit func(length int64, flags uint64) bool) error {
	base, flags := store.ID(""), allocation
	if snapshot, ok := strings.CutPrefix(context, contextBitmap); ok {
		var err error
		if base, err = e.base(snapshot); err != nil {
			return e.fail(err)
		}
		flags = dirty
	} else if context == contextDepth {
		flags = depth
	}
	err := e.dev.Extents(off, n, base, func(x store.Extent) bool { return emit(x.Length, flags(x)) })
	return e.fail(err)
}

func allocation(x store.Extent) uint64 {
	switch {
	case x.Zero && !x.Data:
		return nbd.StateHole | nbd.StateZero
	case x.Zero:
		return nbd.StateZero
	}
	// An inherited run has content, so it is no hole although a write allocates.
	return 0
}

func depth(x store.Extent) uint64 { return uint64(max(x.Depth, 0)) }

func dirty(x store.Extent) uint64 {
	if x.Changed {
		return 1
	}
	return 0
}

// base resolves the snapshot of a bitmap once per connection, so that a snapshot
// removed and made again under the same name is not mistaken for the first.
func (e *export) base(snapshot string) (store.ID, error) {
	if id, ok := e.bases.Load(snapshot); ok {
		return id.(store.ID), nil
	}
	info, err := e.r.snapshot(context.Background(), e.dev.Info(), snapshot)
	if err != nil {
		return "", err
	}
	e.bases.Store(snapshot, info.ID)
	return info.ID, nil
}

// Close gives the device back and ends the connection's part in the books.
func (e *export) Close() error {
	err := e.o.dev.close()
	e.o.traffic.end()
	e.part()
	return err
}

// part takes the connection off the books.
func (e *export) part() {
	e.r.mu.Lock()
	delete(e.o.plain, e.conn)
	if a := e.o.attached[e.epoch]; a != nil {
		delete(a.conns, e.conn)
	}
	e.r.mu.Unlock()
	e.held.end()
	e.r.release(e.o)
}
