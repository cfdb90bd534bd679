package transfer

import (
	"context"
	"strings"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/pki"
	"github.com/strata-csi/strata/pkg/store"
)

// Export is an NBD export as Source and Sink.
type Export struct {
	*nbd.Client
}

// IsURI tells whether s is meant as the address of an NBD export rather than a path.
func IsURI(s string) bool {
	scheme, _, ok := strings.Cut(s, "://")
	return ok && strings.HasPrefix(scheme, "nbd")
}

// DialExport connects to an NBD export, with the files where the address asks for TLS:
// that of a store. Others may be anybody's and know nothing of certificates.
func DialExport(ctx context.Context, uri string, files pki.Files) (*Export, error) {
	var d nbd.Dialer
	if t, err := nbd.ParseURI(uri); err == nil && t.TLS && files.Set() {
		if err := files.Check(); err != nil {
			return nil, err
		}
		d.TLS = files.Client()
	}
	c, err := d.Dial(ctx, uri)
	if err != nil {
		return nil, files.Explain(err)
	}
	return &Export{Client: c.WithContext(ctx)}, nil
}

// Extents implements Source.
func (e *Export) Extents(off, length int64, fn func(off, length int64, zero bool) bool) error {
	return e.Client.Extents(nbd.ContextAllocation, off, length, func(n int64, flags uint32) bool {
		ok := fn(off, n, flags&nbd.StateZero != 0)
		off += n
		return ok
	})
}

// Zero implements Sink.
func (e *Export) Zero(off, length int64) error { return e.Client.Zero(off, length, false) }

// Device is an image or snapshot of a store as Source and Sink.
type Device struct {
	store.Device
}

// Extents implements Source.
func (d Device) Extents(off, length int64, fn func(off, length int64, zero bool) bool) error {
	return d.Device.Extents(off, length, "", func(e store.Extent) bool {
		return fn(e.Offset, e.Length, e.Zero || !e.Data)
	})
}

// Zero implements Sink.
func (d Device) Zero(off, length int64) error { return d.Device.Zero(off, length, false) }
