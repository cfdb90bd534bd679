//go:build kernelnbd

package scenario

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/strata-csi/strata/pkg/storeapi/storepb"
)

// killed is the binary with failpoints in it.
func killed(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("STRATA_BIN_FAILPOINTS")
	if _, err := os.Stat(bin); err != nil {
		t.Fatalf("STRATA_BIN_FAILPOINTS does not name a binary built with -tags failpoints: %v", err)
	}
	return bin
}

// readOnly are the calls of a store that change nothing durable.
func readOnly() []string {
	return []string{"Stat", "Lookup", "Walk", "Usage", "Diff", "Extents", "Children", "Check", "Status",
		"Publications", "Jobs", "WatchJob", "Note", "Notes", "Endpoints"}
}

// elsewhere are points that these tests do not pass, with the reason.
func elsewhere() map[string]string {
	return map[string]string{
		"layered.revert":        "rolling back is the operator's, not an RPC of CSI",
		"storeapi.Revert":       "rolling back is the operator's, not an RPC of CSI",
		"storeapi.Flatten":      "waiting for a flatten is the operator's; the driver queues it with the clone",
		"storeapi.PauseJob":     "steering jobs is the operator's",
		"storeapi.ResumeJob":    "steering jobs is the operator's",
		"storeapi.CancelJob":    "steering jobs is the operator's",
		"storeapi.Adopt":        "adopting an image is the operator's, and of Ceph",
		"storeapi.StartScrub":   "scrubs are the operator's",
		"storeapi.StartFlatten": "flattening is the operator's; the driver queues it with the clone",
		"volume.copy.doomed":    "deleting what is being copied: TestCopyDelete… of pkg/volume; no CO knows its id yet",
		"volume.copy.removed":   "deleting what is being copied: TestCopyDelete… of pkg/volume; no CO knows its id yet",
		"stage.fence.recorded":  "TestForceDetach: the device of a fenced node ends",
	}
}

// points finds the failpoints in the source, and makes up those of the store's API.
func points(t *testing.T) []string {
	t.Helper()
	named := regexp.MustCompile(`\.Hit\("([a-z]+(?:\.[a-z]+)+)"\)`)
	skip := elsewhere()
	var all []string
	err := filepath.WalkDir("../../../pkg", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range named.FindAllStringSubmatch(string(b), -1) {
			all = append(all, m[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range storepb.Store_ServiceDesc.Methods {
		all = append(all, "storeapi."+m.MethodName)
	}
	for _, s := range storepb.Store_ServiceDesc.Streams {
		all = append(all, "storeapi."+s.StreamName)
	}
	all = slices.DeleteFunc(all, func(p string) bool {
		method, api := strings.CutPrefix(p, "storeapi.")
		return api && slices.Contains(readOnly(), method) || strings.HasPrefix(p, "failpoint.") ||
			strings.HasPrefix(p, "rbd.") || skip[p] != "" // the Ceph backend has tests of its own
	})
	slices.Sort(all)
	return slices.Compact(all)
}

// sequence says roughly when in a life a point is passed, so that one life passes many.
func sequence(point string) int {
	order := []string{
		"volume.create", ".create", "Create", "volume.publish", ".publish", "Publish",
		"stage.recorded", "stage.attach", "stage.format.begun", "stage.formatted", "stage.format", "odify",
		"stage.mounted", "stage.grown", "stage.done", "stage.publish", "note", "Note", "volume.snapshot", ".snapshot", "Snapshot",
		"stage.map", "stage.unmap", "stage.reconnect", "StartFlatten", "modify", "expand", "esize",
		"stage.unpublish", "stage.unstage", "stage.dismantle", "npublish", "unsnapshot", "delete", "emove",
	}
	for i, o := range order {
		if strings.Contains(point, o) {
			return i
		}
	}
	return len(order)
}

// executioner has the processes killed at points, one after the other, and starts them
// again as kubelet and systemd do.
type executioner struct {
	t    *testing.T
	stop context.CancelFunc
	done chan struct{}

	mu    sync.Mutex
	queue map[*process][]string // the first is what the process waits to die at
	table []string
}

// execute begins, with each process waiting to die at its first point.
func execute(c *cluster, all []string) *executioner {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	x := &executioner{t: c.t, stop: cancel, done: make(chan struct{}), queue: map[*process][]string{}}
	slices.SortStableFunc(all, func(a, b string) int { return sequence(a) - sequence(b) })
	for _, point := range all {
		p, _ := c.victim(point)
		x.queue[p] = append(x.queue[p], point)
	}
	for p := range x.queue {
		p.stop()
		x.arm(p)
		_, ready := c.victim(x.queue[p][0])
		ready()
	}
	go func() {
		defer close(x.done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				x.look()
			case <-ctx.Done():
				return
			}
		}
	}()
	return x
}

// arm starts a process that will die at its next point.
func (x *executioner) arm(p *process) {
	p.env = nil
	if q := x.queue[p]; len(q) > 0 {
		p.env = []string{"STRATA_FAILPOINT=" + q[0]}
	}
	p.start()
}

// look starts what has died.
func (x *executioner) look() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for p, q := range x.queue {
		if p.running() {
			continue
		}
		how := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
		if len(q) == 0 || !how.Signaled() || how.Signal() != syscall.SIGKILL {
			x.t.Errorf("%s ended by itself: %v", p.name, p.cmd.ProcessState)
		} else {
			x.table = append(x.table, fmt.Sprintf("%-34s %s killed, started again", q[0], p.name))
			x.queue[p] = q[1:]
		}
		x.arm(p)
	}
}

// kill kills a process that is not meant to die at a point just now.
func (x *executioner) kill(p *process) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if p.running() {
		p.kill()
		p.start()
	}
}

// left are the points that were not passed yet.
func (x *executioner) left() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var all []string
	for _, q := range x.queue {
		all = append(all, q...)
	}
	return all
}

// end stops it and disarms the processes.
func (x *executioner) end() {
	x.stop()
	<-x.done
}

// victim is the process in which a point is passed.
func (c *cluster) victim(point string) (*process, func()) {
	switch strings.SplitN(point, ".", 2)[0] {
	case "volume":
		return c.controller.process, c.controller.ready
	case "stage":
		return c.nodes["n1"].process, c.nodes["n1"].ready
	}
	return c.stores[0].process, c.stores[0].serving
}

// Each process is killed right after each of its durable steps, once; it is started
// again, the sidecars and the kubelet ask again, and all ends well: the data are there,
// and nothing is left of anything once it was deleted.
func TestKillAtEveryStep(t *testing.T) {
	t.Setenv("STRATA_BIN", killed(t))
	r, c := random(t), single(t, "n1")
	all := slices.DeleteFunc(points(t), func(p string) bool { // TestKillAtEveryStepOfACopy
		return strings.HasPrefix(p, "volume.copy.") || p == "volume.create.forwarded" || p == "volume.delete.unforwarded"
	})
	total := len(all)
	x := execute(c, all)
	for lives, before := 0, 0; len(x.left()) > 0; lives++ {
		left := x.left()
		if len(left) == before {
			t.Errorf("a whole life passes none of %q", left)
			break
		}
		before = len(left)
		began := time.Now()
		life(t, c, x, r.Uint64())
		t.Logf("life %d: %v, %d of %d points passed", lives, time.Since(began).Round(time.Millisecond), total-len(x.left()), total)
		eventually(t, time.Minute, "the store serves again", func(ctx context.Context) error {
			return quiet(ctx, os.Getenv("STRATA_BIN"), "--store", c.stores[0].data, "status")
		})
		if c.ended(); t.Failed() {
			t.Fatalf("after deaths at these points: %q", x.table)
		}
		c.noNotes(c.stores[0])
	}
	x.end()
	c.log.clean(t)
	t.Logf("%d points:\n%s", len(x.table), strings.Join(x.table, "\n"))
	for point, why := range elsewhere() {
		t.Logf("not here: %s: %s", point, why)
	}
}

// noNotes checks that the store's notebook holds nothing of a volume that is gone.
func (c *cluster) noNotes(s *storeHost) {
	c.t.Helper()
	conn, err := grpc.NewClient("unix:"+filepath.Join(s.data, "api.sock"), plainCredentials())
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	stream, err := storepb.NewStoreClient(conn).Notes(c.t.Context(), &storepb.NotesRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	for {
		page, err := stream.Recv()
		if err != nil {
			return
		}
		for _, n := range page.GetItems() {
			if k := string(n.GetKey()); k != "pool" && !strings.HasPrefix(k, "member/") && !strings.HasPrefix(k, "node/") {
				c.t.Errorf("%s still has the note %s", s.name, k)
			}
		}
	}
}
