//go:build kernelnbd

package scenario

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// capture looks at every packet that passes an interface.
type capture struct {
	fd      int
	pattern []byte
	stop    func() // waits for the end
	done    sync.WaitGroup
	packets int
	bytes   int64
	hits    int
	err     error
}

// startCapture begins to look for a pattern.
func startCapture(t *testing.T, device string, pattern []byte) *capture {
	t.Helper()
	i, err := net.InterfaceByName(device)
	if err != nil {
		t.Fatal(err)
	}
	const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in the order of the network
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatalf("capture: %v", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}))
	if err != nil {
		unix.Close(fd)
		t.Fatalf("capture: %v", err)
	}
	c := &capture{fd: fd, pattern: pattern}
	stop := make(chan struct{})
	c.done.Go(func() { c.run(stop) })
	c.stop = sync.OnceFunc(func() { close(stop); c.done.Wait(); unix.Close(fd) })
	t.Cleanup(c.stop)
	return c
}

func (c *capture) run(stop <-chan struct{}) {
	buf := make([]byte, 128<<10)
	for {
		n, _, err := unix.Recvfrom(c.fd, buf, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			select {
			case <-stop: // and all that came before has been looked at
				return
			default:
			}
		case err != nil:
			c.err = err
			return
		default:
			c.packets++
			c.bytes += int64(n)
			if bytes.Contains(buf[:n], c.pattern) {
				c.hits++
			}
		}
	}
}

// cpu is the processor time that a process has used.
func (p *process) cpu() time.Duration {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	// The name in brackets may hold anything; fields are counted after it.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	return ticks(p.t, f[11]) + ticks(p.t, f[12])
}

// busy is the processor time that the whole guest has used.
func busy(t *testing.T) time.Duration {
	t.Helper()
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b)) // cpu user nice system idle iowait irq softirq
	return ticks(t, f[1]) + ticks(t, f[2]) + ticks(t, f[3]) + ticks(t, f[6]) + ticks(t, f[7])
}

// ticks are hundredths of a second, whatever the kernel's clock runs at.
func ticks(t *testing.T, s string) time.Duration {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n) * 10 * time.Millisecond
}
