//go:build ceph

package scenario

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/strata-csi/strata/pkg/export"
	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
)

const (
	loadBlock   = 4096
	loadWriters = 8
	// requestTimeout is how long a kernel would wait for a reply before it takes the
	// connection for dead; above the time in which a lock is taken over.
	requestTimeout = 90 * time.Second
)

// load writes to a publication as a kernel does: when the connection is lost it makes a
// new one and sends again what was not answered; only an error reply is an I/O error.
type load struct {
	r    *rig
	dir  string // of the gateway
	pub  store.Publication
	size int64
	// before is what the image held before; nil: nothing.
	before []byte

	mu     sync.Mutex
	client *nbd.Client
	gen    uint64
	// withdrawn: no connection will be had any more.
	withdrawn bool

	stopping chan struct{}
	wg       sync.WaitGroup
	writers  [loadWriters]loadWriter

	answered atomic.Int64 // writes
	last     atomic.Int64 // when the last answer came, Unix ns
	worst    atomic.Int64 // longest time between request and answer, ns
	failures chan error
}

// loadWriter owns every loadWriters-th block. sent and acked are by its own numbering.
type loadWriter struct {
	sent, acked []uint64
}

// stamp fills a block so that it tells which write it is.
func stamp(p []byte, block int64, seq uint64) {
	for i := 0; i < len(p); i += 16 {
		binary.LittleEndian.PutUint64(p[i:], uint64(block))
		binary.LittleEndian.PutUint64(p[i+8:], seq)
	}
}

// stamped tells which write a block is of; whole is false for a mixture.
func stamped(p []byte, block int64) (seq uint64, whole bool) {
	seq = binary.LittleEndian.Uint64(p[8:])
	for i := 0; i < len(p); i += 16 {
		b, s := binary.LittleEndian.Uint64(p[i:]), binary.LittleEndian.Uint64(p[i+8:])
		if s != seq || seq != 0 && b != uint64(block) {
			return 0, false
		}
	}
	return seq, true
}

// startLoad begins to write all over an image through a gateway.
func (r *rig) startLoad(g *gateway, pub store.Publication, size int64) *load {
	r.Helper()
	l := &load{r: r, dir: g.dir, pub: pub, size: size, stopping: make(chan struct{}), failures: make(chan error, loadWriters)}
	rng := r.random()
	blocks := size / loadBlock / loadWriters
	for w := range l.writers {
		l.writers[w] = loadWriter{sent: make([]uint64, blocks), acked: make([]uint64, blocks)}
		own := mrand.New(mrand.NewPCG(rng.Uint64(), uint64(w)))
		l.wg.Go(func() {
			if err := l.write(w, own); err != nil {
				l.failures <- err
			}
		})
	}
	return l
}

// write is one writer, until the load stops.
func (l *load) write(w int, rng *mrand.Rand) error {
	p := make([]byte, loadBlock)
	own := &l.writers[w]
	for {
		select {
		case <-l.stopping:
			return nil
		default:
		}
		n := rng.IntN(len(own.sent))
		block := int64(n)*loadWriters + int64(w)
		own.sent[n]++
		stamp(p, block, own.sent[n])
		begin := time.Now()
		if err := l.send(p, block*loadBlock); err != nil {
			return fmt.Errorf("block %d: %w", block, err)
		}
		own.acked[n] = own.sent[n]
		l.answered.Add(1)
		l.last.Store(time.Now().UnixNano())
		for took := time.Since(begin).Nanoseconds(); ; {
			worst := l.worst.Load()
			if took <= worst || l.worst.CompareAndSwap(worst, took) {
				break
			}
		}
	}
}

// send writes, over as many connections as it takes, until there is an answer.
func (l *load) send(p []byte, off int64) error {
	var c *nbd.Client
	for {
		next, err := l.connect(c)
		if err != nil {
			return err
		}
		c = next
		_, err = c.WriteAt(p, off)
		var replied nbd.Errno
		switch {
		case err == nil:
			return nil
		case errors.As(err, &replied):
			return fmt.Errorf("%w: %w", errIO, err)
		}
	}
}

// connect returns the connection, a new one if it is still the one that failed.
func (l *load) connect(failed *nbd.Client) (*nbd.Client, error) {
	ctx, cancel := context.WithTimeout(l.r.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := l.tryConnect(ctx, failed)
		if err == nil || errors.Is(err, errWithdrawn) {
			return c, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("no connection for two minutes: %w", err)
		}
	}
}

// errWithdrawn ends a load that is known to have lost its right.
var errWithdrawn = errors.New("the publication was withdrawn")

func (l *load) tryConnect(ctx context.Context, failed *nbd.Client) (*nbd.Client, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.withdrawn {
		return nil, errWithdrawn
	}
	if l.client != nil && l.client != failed {
		return l.client, nil
	}
	if l.client != nil {
		_ = l.client.Close()
	}
	l.gen++
	d := nbd.Dialer{Timeout: requestTimeout, Label: "the publication"}
	target := nbd.Target{Network: "unix", Address: filepath.Join(l.dir, "nbd.sock"), Export: export.Name(l.pub, l.gen)}
	c, err := d.Dial(ctx, target.String())
	if err == nil {
		l.client = c
	}
	return c, err
}

// progress waits until n more writes were answered after now, and tells how long the
// first of them took.
func (l *load) progress(n int64) time.Duration {
	l.r.Helper()
	begin, before := time.Now(), l.answered.Load()
	var first time.Duration
	l.r.until(3*time.Minute, "writes are answered", func(context.Context) error {
		l.check()
		done := l.answered.Load() - before
		if done > 0 && first == 0 {
			first = time.Since(begin)
		}
		if done < n {
			return fmt.Errorf("%d of %d writes", done, n)
		}
		return nil
	})
	return first
}

// check fails the test if a writer has failed.
func (l *load) check() {
	l.r.Helper()
	select {
	case err := <-l.failures:
		l.r.Fatal(err)
	default:
	}
}

// rest ends the writing once everything that was sent is answered; the connection stays.
func (l *load) rest() {
	l.r.Helper()
	close(l.stopping)
	l.wg.Wait()
	l.check()
}

// stop ends the load.
func (l *load) stop() {
	l.r.Helper()
	l.rest()
	l.disconnect()
}

func (l *load) disconnect() {
	l.r.Helper()
	if l.client != nil {
		_ = l.client.Close()
	}
	l.r.Logf("%d writes answered, the slowest after %v", l.answered.Load(), time.Duration(l.worst.Load()).Round(time.Millisecond))
}

// verify compares what an image holds with what was answered; all writes were.
func (l *load) verify(data []byte) {
	l.r.Helper()
	wrong := 0
	for w := range l.writers {
		for n, want := range l.writers[w].acked {
			block := int64(n)*loadWriters + int64(w)
			at := data[block*loadBlock:][:loadBlock]
			got, whole := stamped(at, block)
			if want == 0 && l.before != nil {
				whole = bytes.Equal(at, l.before[block*loadBlock:][:loadBlock])
				got = 0
			}
			if whole && got == want {
				continue
			}
			if wrong++; wrong <= 10 {
				l.r.Errorf("block %d holds write %d (whole: %v), and write %d was the last that was answered", block, got, whole, want)
			}
		}
	}
	if wrong > 0 {
		l.r.Errorf("%d blocks are wrong", wrong)
	}
}
