package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/pki"
)

// disk is an export in memory for tests. Its hooks run inside the calls.
type disk struct {
	info ExportInfo

	mu    sync.Mutex
	data  []byte
	alloc []bool // per 4 KiB

	before  func(op string, off, n int64) error
	calls   atomic.Int64
	active  atomic.Int64
	flushes atomic.Int64
	closes  atomic.Int64
	opens   atomic.Int64
}

func newDisk(size int64) *disk {
	return &disk{
		info:  ExportInfo{Size: size, MinBlock: 1, PreferredBlock: 4096, MultiConn: true, Description: "a disk in memory"},
		data:  make([]byte, size),
		alloc: make([]bool, (size+4095)/4096),
	}
}

func (d *disk) enter(op string, off, n int64) (func(), error) {
	d.calls.Add(1)
	d.active.Add(1)
	leave := func() { d.active.Add(-1) }
	if d.before != nil {
		if err := d.before(op, off, n); err != nil {
			leave()
			return nil, err
		}
	}
	return leave, nil
}

func (d *disk) Info() ExportInfo { return d.info }

func (d *disk) Read(p []byte, off int64) error {
	leave, err := d.enter("read", off, int64(len(p)))
	if err != nil {
		return err
	}
	defer leave()
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(p, d.data[off:off+int64(len(p))])
	return nil
}

// bytes is what the disk holds.
func (d *disk) bytes(off, n int64) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.data[off : off+n])
}

func (d *disk) set(off, n int64, alloc bool) {
	for i := off / 4096; i <= (off+n-1)/4096; i++ {
		d.alloc[i] = alloc
	}
}

func (d *disk) Write(p []byte, off int64, fua bool) error {
	leave, err := d.enter("write", off, int64(len(p)))
	if err != nil {
		return err
	}
	defer leave()
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.data[off:off+int64(len(p))], p)
	d.set(off, int64(len(p)), true)
	if fua {
		d.flushes.Add(1)
	}
	return nil
}

func (d *disk) Flush() error {
	leave, err := d.enter("flush", 0, 0)
	if err != nil {
		return err
	}
	defer leave()
	d.flushes.Add(1)
	return nil
}

func (d *disk) Trim(off, n int64, fua bool) error {
	leave, err := d.enter("trim", off, n)
	if err != nil {
		return err
	}
	defer leave()
	first, last := (off+4095)/4096*4096, (off+n)/4096*4096
	if first < last {
		d.clear(first, last-first, false)
	}
	return nil
}

func (d *disk) Zero(off, n int64, fua, noHole bool) error {
	leave, err := d.enter("zero", off, n)
	if err != nil {
		return err
	}
	defer leave()
	d.clear(off, n, noHole || off%4096 != 0 || n%4096 != 0)
	return nil
}

func (d *disk) clear(off, n int64, alloc bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.data[off : off+n])
	d.set(off, n, alloc)
}

func (d *disk) Cache(off, n int64) error {
	leave, err := d.enter("cache", off, n)
	if err != nil {
		return err
	}
	leave()
	return nil
}

func (d *disk) Extents(context string, off, n int64, emit func(int64, uint64) bool) error {
	leave, err := d.enter("extents", off, n)
	if err != nil {
		return err
	}
	defer leave()
	for end := off + n; off < end; {
		length := min(4096-off%4096, end-off)
		d.mu.Lock()
		alloc := d.alloc[off/4096]
		d.mu.Unlock()
		flags := uint64(0)
		switch {
		case context == ContextAllocation && !alloc:
			flags = StateHole | StateZero
		case context != ContextAllocation && alloc:
			flags = 1
		}
		if !emit(length, flags) {
			return nil
		}
		off += length
	}
	return nil
}

func (d *disk) Close() error { d.closes.Add(1); return nil }

// backend offers disks by name and refuses some names in particular ways.
type backend struct {
	mu     sync.Mutex
	disks  map[string]*disk
	noList bool
	onOpen func(ctx context.Context, name string, c *Conn) error
}

func (b *backend) find(name string) (*disk, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch d := b.disks[name]; {
	case name == "forbidden":
		return nil, Refuse(Policy, "not for you")
	case name == "broken":
		return nil, errors.New("a secret that the client must not see")
	case d != nil:
		return d, nil
	}
	return nil, Refuse(Unknown, "there is no export %q", name)
}

func (b *backend) add(name string, d *disk) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.disks[name] = d
}

func (b *backend) Describe(_ context.Context, name string, _ *Conn) (ExportInfo, error) {
	d, err := b.find(name)
	if err != nil {
		return ExportInfo{}, err
	}
	return d.info, nil
}

func (b *backend) Contexts(_ context.Context, name, query string, _ *Conn) ([]string, error) {
	if _, err := b.find(name); err != nil {
		return nil, err
	}
	all := []string{ContextAllocation, "qemu:allocation-depth", "qemu:dirty-bitmap:one", "qemu:dirty-bitmap:two"}
	return slices.DeleteFunc(all, func(s string) bool {
		return s != query && !(query == "" || strings.HasSuffix(query, ":") && strings.HasPrefix(s, query))
	}), nil
}

func (b *backend) Open(ctx context.Context, name string, c *Conn) (Export, error) {
	if b.onOpen != nil {
		if err := b.onOpen(ctx, name, c); err != nil {
			return nil, err
		}
	}
	d, err := b.find(name)
	if err != nil {
		return nil, err
	}
	d.opens.Add(1)
	return d, nil
}

func (b *backend) List(context.Context, *Conn) ([]ListEntry, error) {
	if b.noList {
		return nil, Refuse(Policy, "no listing here")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var entries []ListEntry
	for name, d := range b.disks {
		entries = append(entries, ListEntry{Name: name, Description: d.info.Description})
	}
	slices.SortFunc(entries, func(a, b ListEntry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

// rig is a server on a unix socket with one disk named "disk".
type rig struct {
	t    testing.TB
	srv  *Server
	b    *backend
	d    *disk
	path string
	pki  string // directory of certificates, if the listener has TLS
}

func newRig(t testing.TB, size int64, cfg Config) *rig {
	t.Helper()
	r := &rig{t: t, d: newDisk(size), path: filepath.Join(t.TempDir(), "nbd.sock")}
	r.b = &backend{disks: map[string]*disk{"disk": r.d}}
	r.srv = NewServer(r.b, cfg)
	l, err := net.Listen("unix", r.path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(t.Name(), overTLS) {
		r.pki = certificates(t)
	}
	r.serve(l)
	return r
}

// serve adds a listener; the server is closed and checked at the end of the test.
func (r *rig) serve(l net.Listener) {
	serve := r.srv.Serve
	if r.pki != "" {
		cfg := pki.RoleFiles(r.pki, pki.RoleStore).Server()
		serve = func(ctx context.Context, l net.Listener) error { return r.srv.ServeTLS(ctx, l, cfg) }
	}
	ended := make(chan error, 1)
	go func() { ended <- serve(context.Background(), l) }()
	r.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.srv.Close(ctx); err != nil {
			r.t.Errorf("close the server: %v", err)
		}
		if err := <-ended; !errors.Is(err, ErrServerClosed) {
			r.t.Errorf("Serve ended with %v", err)
		}
		st := r.srv.Stats()
		if st.Bytes != 0 || st.Conns != 0 || st.Handshakes != 0 {
			r.t.Errorf("after Close the server holds %+v", st)
		}
		if st.Peak > st.Limit {
			r.t.Errorf("the budget was exceeded: %+v", st)
		}
		if o, c := r.d.opens.Load(), r.d.closes.Load(); o != c {
			r.t.Errorf("the export was opened %d times and closed %d times", o, c)
		}
	})
}

func (r *rig) uri() string {
	return Target{Network: "unix", Address: r.path, Export: "disk", TLS: r.pki != ""}.String()
}

// dialer has the certificates that the rig's server wants, if any.
func (r *rig) dialer() *Dialer {
	if r.pki == "" {
		return &Dialer{}
	}
	return &Dialer{TLS: r.as(pki.RoleNode)}
}

// as is the configuration of a client with a role.
func (r *rig) as(role pki.Role) *tls.Config { return pki.RoleFiles(r.pki, role).Client() }

// dial connects our own client.
func (r *rig) dial() *Client {
	r.t.Helper()
	c, err := r.dialer().Dial(context.Background(), r.uri())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}
