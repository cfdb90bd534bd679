//go:build kernelnbd

package nbd

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/pkg/pki"
)

// secureRig serves on TCP with TLS.
func secureRig(t *testing.T, cfg Config) (*rig, Target) {
	t.Helper()
	r := newRig(t, 4<<20, cfg)
	r.pki = certificates(t)
	return r, r.tcp()
}

func TestKernelTLS(t *testing.T) {
	r, target := secureRig(t, Config{})
	f, n := dialKernel(t, KernelDial{Target: target, Export: "disk", TLS: r.as(pki.RoleNode)})
	if n.Size != 4<<20 || n.Structured {
		t.Errorf("negotiated %+v", n)
	}
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("the socket's flags are %#x, %v: it does not block", flags, err)
	}
	actAsKernel(t, f, 3)
	if got := r.d.bytes(4096, 4); !bytes.Equal(got, []byte{7, 1, 2, 3}) {
		t.Errorf("the export holds %x", got)
	}
}

// The suites that this program's own TLS would not choose on this machine are chosen by
// another's, which also sends tickets behind its handshake.
func TestKernelTLSSuites(t *testing.T) {
	for _, suite := range []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"} {
		for _, tickets := range []int{0, 2} {
			t.Run(fmt.Sprintf("%s/%d tickets", suite, tickets), func(t *testing.T) {
				r := newRig(t, 4<<20, Config{})
				dir := certificates(t)
				target := r.behindOpenSSL(t, dir, "-ciphersuites", suite, "-num_tickets", fmt.Sprint(tickets))
				f, _ := dialKernel(t, KernelDial{Target: target, Export: "disk", TLS: pki.RoleFiles(dir, pki.RoleNode).Client()})
				actAsKernel(t, f, 9)
			})
		}
	}
}

// behindOpenSSL puts openssl's TLS in front of the rig's unix socket.
func (r *rig) behindOpenSSL(t *testing.T, dir string, args ...string) Target {
	t.Helper()
	w := r.raw()
	w.greet()
	plain, far := socketPair(t)
	back := startOpenSSL(t, filepath.Join(filepath.Dir(r.path), "tls.sock"), far, dir, args)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	greeting := unhex(t, "4e42444d41474943 49484156454f5054 0003")
	var m middle
	var wg sync.WaitGroup
	t.Cleanup(func() {
		for _, c := range []io.Closer{l, plain, back, w} {
			c.Close()
		}
		wg.Wait()
	})
	wg.Go(func() { m.pass(plain, w, nil) })
	wg.Go(func() { m.pass(w, plain, nil) })
	wg.Go(func() {
		front, err := l.Accept()
		if err != nil {
			return
		}
		front.SetDeadline(time.Now().Add(testPatience))
		// The front does in the clear what precedes TLS, and then passes bytes on.
		front.Write(greeting)
		io.CopyN(io.Discard, front, 4+optionSize)
		front.Write(appendReply(nil, optStartTLS, repAck, nil))
		wg.Go(func() { m.pass(front, back, nil) })
		m.pass(back, front, nil)
	})
	return Target{Network: "tcp", Address: l.Addr().String()}
}

// startOpenSSL runs a TLS server with the store's certificate on a unix socket, for one
// connection, and makes that. What comes out of TLS goes to plain and the other way.
func startOpenSSL(t *testing.T, path string, plain net.Conn, dir string, args []string) net.Conn {
	t.Helper()
	file, err := plain.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	defer plain.Close()
	store := pki.RoleFiles(dir, pki.RoleStore)
	cmd := exec.Command("openssl", append([]string{"s_server", "-quiet", "-naccept", "1", "-tls1_3", "-unix", filepath.Base(path),
		"-CAfile", store.CA, "-cert", store.Cert, "-key", store.Key, "-Verify", "1"}, args...)...)
	cmd.Dir = filepath.Dir(path) // openssl ends if it is told a path of more than 31 bytes
	var said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = file, file, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait(); close(exited) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-exited })
	limit := time.After(testPatience)
	for wait := time.NewTicker(5 * time.Millisecond); ; {
		c, err := net.Dial("unix", path)
		if err == nil {
			c.SetDeadline(time.Now().Add(testPatience))
			return c
		}
		select {
		case <-wait.C:
		case end := <-exited:
			t.Fatalf("openssl ended: %v: %s", end, said.Bytes())
		case <-limit:
			t.Fatalf("openssl does not listen: %v", err)
		}
	}
}

// Where the hardware has no AES, both sides of our own TLS prefer ChaCha20.
func TestKernelTLSWithoutAES(t *testing.T) {
	if os.Getenv("STRATA_TEST_INNER") != "" {
		r, target := secureRig(t, Config{})
		var suite uint16
		r.b.onOpen = func(_ context.Context, _ string, c *Conn) error {
			cs, _ := c.TLS()
			suite = cs.CipherSuite
			return nil
		}
		f, _ := dialKernel(t, KernelDial{Target: target, Export: "disk", TLS: r.as(pki.RoleNode)})
		actAsKernel(t, f, 5)
		if suite != tls.TLS_CHACHA20_POLY1305_SHA256 {
			t.Errorf("the suite is %s", tls.CipherSuiteName(suite))
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "2m")
	cmd.Env = append(os.Environ(), "STRATA_TEST_INNER=1", "GODEBUG=cpu.aes=off,cpu.pclmulqdq=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// The server's verdict on the client comes when the kernel has the keys already, as an
// alert, which the kernel does not show as data.
func TestKernelTLSRefused(t *testing.T) {
	r, target := secureRig(t, Config{})
	other := certificates(t)
	stranger := pki.RoleFiles(other, pki.RoleNode).Client()
	stranger.VerifyConnection = nil
	none := r.as(pki.RoleNode)
	none.GetClientCertificate = nil
	ctx, cancel := context.WithTimeout(t.Context(), testPatience)
	defer cancel()
	for name, c := range map[string]struct {
		tls  *tls.Config
		want string
	}{
		"another authority": {stranger, "unknown certificate authority"},
		"no certificate":    {none, "certificate required"},
	} {
		_, _, err := DialKernel(ctx, KernelDial{Target: target, Export: "disk", TLS: c.tls})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var refusal *Refusal
	_, _, err := DialKernel(ctx, KernelDial{Target: target, Export: "forbidden", TLS: r.as(pki.RoleNode)})
	if !errors.As(err, &refusal) || refusal.Reason != Policy {
		t.Errorf("a forbidden export: %v", err)
	}
	if n := r.d.opens.Load(); n != 0 {
		t.Errorf("the export was opened %d times", n)
	}
}

// A server whose verdict comes before the kernel has the keys is heard as well: the kernel
// takes no connection that was ended.
func TestKernelTLSRefusedAtOnce(t *testing.T) {
	_, target := secureRig(t, Config{})
	stranger := pki.RoleFiles(certificates(t), pki.RoleNode).Client()
	stranger.VerifyConnection = nil
	nc := clearly(t, target)
	g := newGreeter(nc.Conn, "disk")
	if err := g.startTLS(); err != nil {
		t.Fatal(err)
	}
	h, err := shake(nc.Conn.(*net.TCPConn), stranger)
	if err != nil {
		t.Fatal(err)
	}
	err = rawOf(h.nc).Control(func(fd uintptr) {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		if _, err := unix.Poll(ready, int(testPatience.Milliseconds())); err != nil || ready[0].Revents&unix.POLLRDHUP == 0 {
			t.Errorf("the server has not ended the connection: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.over(); err == nil || errors.Is(err, ErrNoKernelTLS) || !strings.Contains(err.Error(), "unknown certificate authority") {
		t.Errorf("the keys of a connection that was ended: %v", err)
	}
}

// A server that ends the connection is seen as the end by whoever reads the socket.
func TestKernelTLSEnds(t *testing.T) {
	r, target := secureRig(t, Config{})
	f, _ := dialKernel(t, KernelDial{Target: target, Export: "disk", TLS: r.as(pki.RoleNode)})
	actAsKernel(t, f, 1)
	ctx, cancel := context.WithTimeout(t.Context(), testPatience)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- r.srv.Close(ctx) }()
	if n, err := f.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("reading from a closed connection: %d, %v", n, err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}
