//go:build ceph

package scenario

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
	"github.com/strata-csi/strata/test/ceph/cluster"
)

// cephPool is where gateways keep their images.
const cephPool = "strata-test"

// cached asks for a cache as bold as librbd has one. Gateways must not listen: behind it,
// a write that was answered is lost with the process.
const cached = "rbd cache = true\nrbd cache policy = writeback\n" +
	"rbd cache writethrough until flush = false\nrbd cache max dirty age = 30\n"

// rig is a cluster with a user for gateways, for one test.
type rig struct {
	*testing.T
	c     *cluster.Cluster
	pools string // the pools file, in which the pool is called fast
}

func newRig(t *testing.T, objectStore string) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, err := cluster.Start(ctx, cluster.Options{ObjectStore: objectStore, Pools: []string{cephPool}, Bytes: 6 << 30, Extra: cached})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Alive(); err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	keyring, err := c.AddUser(ctx, "strata", "mon", "profile rbd", "osd", "profile rbd pool="+cephPool)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{T: t, c: c, pools: filepath.Join(c.Dir(), "pools.yaml")}
	text := fmt.Sprintf("clusters: [{name: test, conf: %s, user: strata, keyring: %s}]\n"+
		"pools:\n  - {name: fast, backend: ceph, cluster: test, cephPool: %s, local: /unused}\n", c.Conf(), keyring, cephPool)
	r.must(os.WriteFile(r.pools, []byte(text), 0o600))
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// random is a source of random choices that can be had again.
func (r *rig) random() *mrand.Rand {
	r.Helper()
	seed, err := strconv.ParseUint(os.Getenv("STRATA_SEED"), 10, 64)
	if err != nil {
		var b [8]byte
		_, _ = rand.Read(b[:])
		seed = binary.LittleEndian.Uint64(b[:])
	}
	r.Logf("STRATA_SEED=%d", seed)
	return mrand.New(mrand.NewPCG(seed, 0))
}

// gateway is a process of strata, most often a store that serves the pool, started again
// as often as it ends.
type gateway struct {
	r    *rig
	args []string
	dir  string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
}

// newGateway makes one that is known by name; it does not run yet.
func (r *rig) newGateway(name string) *gateway {
	g := r.newProcess(name)
	g.args = []string{"store", "--backend", "rbd", "--data", g.dir, "--pools", r.pools, "--pool", "fast", "--allow-unsafe", "-v", "2"}
	return g
}

// newProcess makes one with a directory of its own.
func (r *rig) newProcess(name string, args ...string) *gateway {
	g := &gateway{r: r, args: args, dir: filepath.Join(r.c.Dir(), name), log: filepath.Join(r.c.Dir(), name+".log")}
	r.Cleanup(func() {
		g.stop()
		if r.Failed() {
			r.Logf("last lines of %s:\n%s", name, g.tail(40))
		}
	})
	return g
}

// begin starts the process and does not wait for it.
func (g *gateway) begin(flags ...string) {
	g.r.Helper()
	bin := os.Getenv("STRATA_CEPH_BIN")
	if bin == "" {
		g.r.Fatal("STRATA_CEPH_BIN does not name a strata built with the Ceph backend; run hack/ceph.sh")
	}
	out, err := os.OpenFile(g.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	g.r.must(err)
	defer out.Close()
	g.cmd = exec.Command(bin, append(slices.Clone(g.args), flags...)...)
	g.cmd.Env = g.r.c.Env()
	g.cmd.Stdout, g.cmd.Stderr = out, out
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// The thread that starts it lives as long as it, since that thread's death is what
	// the parent-death signal looks at.
	cmd, started, done := g.cmd, make(chan error), make(chan struct{})
	g.done = done
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	g.r.must(<-started)
}

// start starts the process and returns when its API answers.
func (g *gateway) start(flags ...string) *storeapi.Client {
	g.r.Helper()
	g.begin(flags...)
	return g.api()
}

// api is a client of the process, once it answers.
func (g *gateway) api() *storeapi.Client {
	g.r.Helper()
	c, err := storeapi.Dial("unix:"+filepath.Join(g.dir, "api.sock"), storeapi.DialOptions{})
	g.r.must(err)
	g.r.Cleanup(func() { _ = c.Close() })
	g.r.until(time.Minute, "the gateway answers", func(ctx context.Context) error {
		if !g.running() {
			g.r.Fatalf("the gateway has ended:\n%s", g.tail(20))
		}
		_, err := c.Status(ctx)
		return err
	})
	return c
}

func (g *gateway) running() bool {
	if g.done == nil {
		return false
	}
	select {
	case <-g.done:
		return false
	default:
		return true
	}
}

// kill ends the process as a crash would.
func (g *gateway) kill() {
	g.r.Helper()
	if !g.running() {
		g.r.Fatalf("the gateway has ended by itself:\n%s", g.tail(20))
	}
	g.r.must(g.cmd.Process.Kill())
	<-g.done
}

// stop ends the process in order, and hard if that takes too long.
func (g *gateway) stop() {
	if !g.running() {
		return
	}
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-g.done:
	case <-time.After(45 * time.Second):
		g.r.Errorf("the gateway did not stop in 45 s")
		_ = g.cmd.Process.Kill()
		<-g.done
	}
}

func (g *gateway) tail(n int) string {
	b, err := os.ReadFile(g.log)
	if err != nil {
		return "(nothing)"
	}
	lines := strings.Split(string(bytes.TrimSpace(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// stacks ends the process, if it runs, with what each of its goroutines does.
func (g *gateway) stacks() string {
	if !g.running() {
		return "(it has ended)"
	}
	_ = g.cmd.Process.Signal(syscall.SIGQUIT)
	<-g.done
	return g.tail(2000)
}

// until asks ten times a second until there is no error.
func (r *rig) until(most time.Duration, what string, ask func(context.Context) error) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), most)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.Fatalf("not within %v: %s: %v", most, what, err)
		}
	}
}

// quiet waits until a store has no job left.
func (r *rig) quiet(s store.JobRunner) {
	r.Helper()
	r.until(2*time.Minute, "no job is left", func(ctx context.Context) error {
		jobs, err := s.Jobs(ctx)
		if err == nil && len(jobs) > 0 {
			err = fmt.Errorf("%d jobs, first %+v", len(jobs), jobs[0])
		}
		return err
	})
}

// errIO is an error reply, which a kernel would pass on to whoever writes.
var errIO = errors.New("I/O error")

// inCluster is the name of an image in the cluster.
func inCluster(id store.ID) string { return cephPool + "/strata.default." + string(id) }

// exported is what the command rbd reads from an image or a snapshot.
func (r *rig) exported(ctx context.Context, spec string) []byte {
	r.Helper()
	data, err := r.c.Rbd(ctx, "export", "--no-progress", spec, "-")
	r.must(err)
	return data
}
