package nbd

import (
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cpu is the time this process has spent on its processors.
func cpu() time.Duration {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSocket sends prepared requests in batches of the queue depth. The CPU
// time covers client and server, which share the process.
func BenchmarkSocket(b *testing.B) {
	for _, op := range []string{"read", "write"} {
		for _, depth := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s4k/qd%d", op, depth), func(b *testing.B) { benchSocket(b, op, depth) })
		}
	}
}

func benchSocket(b *testing.B, op string, depth int) {
	r := newRig(b, 64<<20, Config{})
	w := r.simple()
	w.SetDeadline(time.Time{})
	var batch []byte
	answer := simpleSize
	for i := range depth {
		if op == "read" {
			batch = append(batch, header(0, cmdRead, uint64(i), uint64(i)<<12, 4096)...)
		} else {
			batch = append(append(batch, header(0, cmdWrite, uint64(i), uint64(i)<<12, 4096)...), make([]byte, 4096)...)
		}
	}
	if op == "read" {
		answer += 4096
	}
	replies := make([]byte, answer*depth)
	b.ReportAllocs()
	b.ResetTimer()
	begun := cpu()
	for n := 0; n < b.N; n += depth {
		w.Write(batch)
		if _, err := io.ReadFull(w, replies); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(cpu()-begun)/float64(b.N), "cpu-ns/op")
	b.StopTimer()
	w.Close()
}

// BenchmarkClient measures our client and server together.
func BenchmarkClient(b *testing.B) {
	r := newRig(b, 64<<20, Config{})
	c := r.dial()
	b.ReportAllocs()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			p := make([]byte, 4096)
			for range b.N / 16 {
				c.ReadAt(p, int64(i)<<12)
			}
		}()
	}
	wg.Wait()
}

// BenchmarkTLS compares TCP with and without TLS. The CPU time covers both sides.
func BenchmarkTLS(b *testing.B) {
	for _, way := range []string{"plain", "tls"} {
		for _, size := range []int{4 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%s/read%dk", way, size>>10), func(b *testing.B) { benchTCP(b, way == "tls", size) })
		}
	}
}

func benchTCP(b *testing.B, secure bool, size int) {
	r := newRig(b, 64<<20, Config{})
	if secure {
		r.pki = certificates(b)
	}
	r.d.Write(make([]byte, 64<<20), 0, false) // no holes
	target := r.tcp()
	target.Export = "disk"
	c, err := r.dialer().Dial(b.Context(), target.String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	const depth = 16
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	begun := cpu()
	var wg sync.WaitGroup
	for i := range depth {
		wg.Go(func() {
			p := make([]byte, size)
			for n := i; n < b.N; n += depth {
				if _, err := c.ReadAt(p, int64(i)<<20); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(cpu()-begun)/float64(b.N), "cpu-ns/op")
	b.StopTimer()
}
