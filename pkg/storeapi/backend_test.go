package storeapi

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
)

// exports serves the devices of a store by id, without rules about who may.
type exports struct{ s store.Store }

func (e exports) Describe(ctx context.Context, name string, _ *nbd.Conn) (nbd.ExportInfo, error) {
	i, err := e.s.Stat(ctx, store.ID(name))
	if err != nil {
		return nbd.ExportInfo{}, nbd.Refuse(nbd.Unknown, "%v", err)
	}
	return describe(i), nil
}

func describe(i store.Info) nbd.ExportInfo {
	return nbd.ExportInfo{Size: i.Size, ReadOnly: i.Kind == store.KindSnapshot, MinBlock: uint32(i.BlockSize)}
}

func (exports) Contexts(context.Context, string, string, *nbd.Conn) ([]string, error) {
	return nil, nil
}

func (exports) List(context.Context, *nbd.Conn) ([]nbd.ListEntry, error) { return nil, nil }

func (e exports) Open(ctx context.Context, name string, _ *nbd.Conn) (nbd.Export, error) {
	d, err := e.s.Open(ctx, store.ID(name))
	if err != nil {
		return nil, nbd.Refuse(nbd.Unknown, "%v", err)
	}
	return opened{d}, nil
}

// opened is a device as an export.
type opened struct{ store.Device }

// numbered makes NBD errors of the store's.
func numbered(err error) error {
	for is, errno := range map[error]nbd.Errno{
		store.ErrRange: nbd.EINVAL, store.ErrInvalid: nbd.EINVAL, store.ErrNoSpace: nbd.ENOSPC, store.ErrReadOnly: nbd.EPERM,
	} {
		if errors.Is(err, is) {
			return errno
		}
	}
	return err
}

func (o opened) Info() nbd.ExportInfo { return describe(o.Device.Info()) }

func (o opened) Read(p []byte, off int64) error {
	_, err := o.ReadAt(p, off)
	return numbered(err)
}

func (o opened) Write(p []byte, off int64, _ bool) error {
	_, err := o.WriteAt(p, off)
	return numbered(err)
}

func (o opened) Trim(off, n int64, _ bool) error { return numbered(o.Discard(off, n)) }

func (o opened) Zero(off, n int64, _, noHole bool) error {
	return numbered(o.Device.Zero(off, n, noHole))
}

func (opened) Cache(int64, int64) error { return nil }

func (opened) Extents(_ string, _, n int64, emit func(int64, uint64) bool) error {
	emit(n, 0)
	return nil
}

// serveNBD serves the devices of s on a socket in dir and returns the endpoint and
// what ends it.
func serveNBD(t *testing.T, dir string, s store.Store) (endpoint string, stop func()) {
	t.Helper()
	path := filepath.Join(dir, "nbd.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := nbd.NewServer(exports{s}, nbd.Config{})
	served := make(chan error, 1)
	go func() { served <- srv.Serve(context.Background(), l) }()
	stop = func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // cut what is still connected
		_ = srv.Close(ctx)
		if err := <-served; !errors.Is(err, nbd.ErrServerClosed) {
			t.Errorf("serve NBD: %v", err)
		}
	}
	return nbd.Target{Network: "unix", Address: path}.String(), stop
}
