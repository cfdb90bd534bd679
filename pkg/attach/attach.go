package attach

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/genetlink"
)

// Prefix begins the backend identifier of every device this package makes. Devices
// without it belong to others and are never touched.
const Prefix = "strata:"

var (
	// ErrNotAdopted: the kernel dropped the new socket, because the old one is not
	// dead yet. The device is unchanged. Try again with a fresh socket.
	ErrNotAdopted = errors.New("the kernel did not take the new socket")
	// ErrFull: no index of the range is free.
	ErrFull = errors.New("no free NBD index")
	// ErrGone: there is no such device, or its index belongs to another backend.
	ErrGone = errors.New("no such NBD device")
	// ErrInUse: the device was disconnected, but something still has it open.
	ErrInUse = errors.New("the NBD device is still open")
	// ErrStuck: the kernel has not answered in time, and the call cannot be taken
	// back. Calls for that device fail with it at once until the kernel answers, those
	// for others after their bound: the kernel handles one call at a time.
	ErrStuck = errors.New("the kernel does not answer")
	// ErrUnhealthy: the data path does not answer, so that it is not safe to resize.
	ErrUnhealthy = errors.New("the NBD device does not answer")
	// ErrUnsupported: kernel NBD cannot be used here; the text says what to do.
	ErrUnsupported = errors.New("kernel NBD cannot be used")
	// ErrClosed: the Kernel was closed.
	ErrClosed = errors.New("attach is closed")
)

// Config of a Kernel. The zero value is ready for use.
type Config struct {
	// First and Last are the range of device indexes, both included; both 0 mean 64
	// to 1023. First is at least 16: the kernel makes nbd0 to nbd15 for others.
	First, Last int
	// IOTimeout is how long the kernel waits before it looks at an unanswered
	// request again, 2 to 5 s; 0 means 3 s. A request that was under way when the
	// server died is sent again that late at most after the reconnect. A live server
	// may take longer: the kernel only logs it. Its unit is the millisecond.
	IOTimeout time.Duration
	// DeadTimeout is how long I/O waits for a reconnect before it fails, in whole
	// seconds, at least 1 s; 0 means 7 days.
	DeadTimeout time.Duration
	// CallTimeout bounds each call to the kernel; 0 means 20 s.
	CallTimeout time.Duration
	// AdoptTimeout is how long a reconnect waits for the old socket to be dead; 0
	// means 5 s.
	AdoptTimeout time.Duration
	// QuietTimeout is how long a resize waits for a moment without requests; 0 means
	// 5 s.
	QuietTimeout time.Duration
	// Poll is how often Watch reminds of every device when the kernel does not tell
	// of dead connections; 0 means 30 s.
	Poll time.Duration
	// Sys, Dev and Proc are where sysfs, devtmpfs and procfs are mounted; "" means
	// /sys, /dev and /proc.
	Sys, Dev, Proc string

	dial  func() (*genetlink.Conn, error) // tests
	armed time.Duration                   // tests; see Kernel.grow
}

const (
	firstIndex, lastIndex = 64, 1023
	// The first 16 are made when the module is loaded and are what nbd-client and
	// qemu-nbd use; 32767 is the last with the module's default of 16 partitions.
	lowestIndex, highestIndex = 16, 32767
	week                      = 7 * 24 * time.Hour
)

func (c *Config) fill() error {
	if c.First == 0 && c.Last == 0 {
		c.First, c.Last = firstIndex, lastIndex
	}
	if c.First < lowestIndex || c.Last < c.First || c.Last > highestIndex {
		return fmt.Errorf("attach: index range %d to %d: must lie within %d to %d", c.First, c.Last, lowestIndex, highestIndex)
	}
	for _, d := range []struct {
		v           *time.Duration
		normal      time.Duration
		least, most time.Duration
		name        string
	}{
		{&c.IOTimeout, 3 * time.Second, 2 * time.Second, 5 * time.Second, "I/O timeout"},
		{&c.DeadTimeout, week, time.Second, 100 * 365 * 24 * time.Hour, "dead-connection timeout"},
		{&c.CallTimeout, 20 * time.Second, time.Millisecond, time.Hour, "call timeout"},
		{&c.AdoptTimeout, 5 * time.Second, time.Millisecond, time.Hour, "adopt timeout"},
		{&c.QuietTimeout, 5 * time.Second, time.Millisecond, time.Hour, "quiet timeout"},
		{&c.armed, 30 * time.Second, time.Second, time.Hour, "limit of a resize"},
		{&c.Poll, 30 * time.Second, time.Millisecond, time.Hour, "poll interval"},
	} {
		if *d.v == 0 {
			*d.v = d.normal
		}
		if *d.v < d.least || *d.v > d.most {
			return fmt.Errorf("attach: %s %v: must be %v to %v", d.name, *d.v, d.least, d.most)
		}
	}
	for _, p := range []struct {
		v      *string
		normal string
	}{{&c.Sys, "/sys"}, {&c.Dev, "/dev"}, {&c.Proc, "/proc"}} {
		if *p.v == "" {
			*p.v = p.normal
		}
	}
	if c.dial == nil {
		c.dial = func() (*genetlink.Conn, error) { return genetlink.Dial(nil) }
	}
	return nil
}

// Request is one connection for the kernel and what the server said of the export.
type Request struct {
	// Socket is a TCP or unix stream socket on which the handshake is done and
	// nothing has been sent since. Whoever is given a Request owns the socket, also
	// on failure, and closes it.
	Socket *os.File
	// Size in bytes, a multiple of BlockSize. A reconnect does not use it.
	Size int64
	// BlockSize is the logical and physical block size: 512, 1024, 2048 or 4096. A
	// reconnect does not use it.
	BlockSize int
	// Flags are the transmission flags of the handshake. A reconnect does not use
	// them.
	Flags uint16
	// Backend identifies what is attached: Prefix, then what the caller likes,
	// without white space, 128 bytes at most. It is visible to everyone on the host.
	// A reconnect uses that of the Device.
	Backend string
}

const maxBackend = 128

func (r Request) check() error {
	switch {
	case r.BlockSize != 512 && r.BlockSize != 1024 && r.BlockSize != 2048 && r.BlockSize != 4096:
		return fmt.Errorf("block size %d: must be 512, 1024, 2048 or 4096", r.BlockSize)
	case r.Size <= 0 || r.Size%int64(r.BlockSize) != 0:
		return fmt.Errorf("size %d: must be a positive multiple of the block size %d", r.Size, r.BlockSize)
	case !strings.HasPrefix(r.Backend, Prefix) || len(r.Backend) > maxBackend || strings.ContainsAny(r.Backend, " \t\r\n\x00"):
		return fmt.Errorf("backend identifier %q: must begin with %q, have no white space and at most %d bytes", r.Backend, Prefix, maxBackend)
	}
	return nil
}

// Device is a connected NBD device as it was when it was looked at.
type Device struct {
	// Index is the number in /dev/nbd<index>.
	Index int
	// Path of the device node.
	Path string
	// Backend identifier.
	Backend string
	// Size in bytes, 0 while it is being torn down.
	Size int64
	// BlockSize is the logical block size in bytes.
	BlockSize int
	// ReadOnly: the server offered it so.
	ReadOnly bool
	// PID of the process that connected it; it may be long gone.
	PID int
}

func (d Device) String() string { return fmt.Sprintf("nbd%d (%s)", d.Index, d.Backend) }

// Kernel attaches NBD connections to kernel devices. Its methods may be called
// concurrently; calls for the same index wait for each other.
type Kernel struct {
	cfg  Config
	quit context.Context // ends at Close
	stop context.CancelFunc
	work sync.WaitGroup // goroutines inside the kernel

	mu     sync.Mutex
	closed bool
	slots  map[int]*slot
	next   int // where the search for a free index begins
	lost   int // goroutines that were left behind in the kernel
}

// slot is what a Kernel knows of an index.
type slot struct {
	turn chan struct{} // holds one token while somebody works on the index
	sock *handle       // the connection in use, if this process made it; under turn

	// Under Kernel.mu.
	stuck string // what the kernel has not answered yet, or ""
}

// New makes a Kernel. It does not touch the system; see Supported.
func New(cfg Config) (*Kernel, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	k := &Kernel{cfg: cfg, slots: map[int]*slot{}, next: cfg.First}
	k.quit, k.stop = context.WithCancel(context.Background())
	return k, nil
}

// Close forgets the sockets and waits for what is under way; it disconnects nothing.
// Devices go on working. If the kernel holds on to a call past the context's end,
// Close returns ErrStuck: only the end of the process or of the server helps then.
func (k *Kernel) Close(ctx context.Context) error {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.stop()
	done := make(chan struct{})
	go func() {
		k.work.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("attach: close: %w: %s", ErrStuck, k.stuckList())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.slots {
		s.sock.close()
		s.sock = nil
	}
	return nil
}

func (k *Kernel) stuckList() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var b []string
	for i, s := range k.slots {
		if s.stuck != "" {
			b = append(b, fmt.Sprintf("%s of nbd%d", s.stuck, i))
		}
	}
	return strings.Join(b, ", ")
}

// join counts the caller among those that Close waits for. leave ends it.
func (k *Kernel) join() (leave func(), err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil, ErrClosed
	}
	k.work.Add(1)
	return k.work.Done, nil
}

// enter waits for the caller's turn on an index. leave ends it.
func (k *Kernel) enter(ctx context.Context, index int) (s *slot, leave func(), err error) {
	quit, err := k.join()
	if err != nil {
		return nil, nil, err
	}
	k.mu.Lock()
	s = k.slots[index]
	if s == nil {
		s = &slot{turn: make(chan struct{}, 1)}
		k.slots[index] = s
	}
	k.mu.Unlock()
	select {
	case s.turn <- struct{}{}:
		return s, func() { <-s.turn; quit() }, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-k.quit.Done():
		err = ErrClosed
	}
	quit()
	return nil, nil, fmt.Errorf("wait for the turn on nbd%d: %w", index, err)
}

// Holds tells whether this process has the socket of the device, so that it can cut
// the connection itself. It has not after it was started anew, until the first
// Reconnect.
func (k *Kernel) Holds(ctx context.Context, d Device) (bool, error) {
	s, leave, err := k.enter(ctx, d.Index)
	if err != nil {
		return false, fmt.Errorf("attach: look at %s: %w", d, err)
	}
	defer leave()
	return s.sock != nil && s.sock.backend == d.Backend, nil
}
