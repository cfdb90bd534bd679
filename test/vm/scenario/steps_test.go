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
		"layered.revert":       "rolling back is the operator's, not an RPC of CSI",
		"storeapi.Revert":      "rolling back is the operator's, not an RPC of CSI",
		"storeapi.Flatten":     "waiting for a flatten is the operator's; the driver queues it with the clone",
		"storeapi.PauseJob":    "steering jobs is the operator's",
		"storeapi.ResumeJob":   "steering jobs is the operator's",
		"storeapi.CancelJob":   "steering jobs is the operator's",
		"storeapi.StartScrub":  "scrubs are the operator's",
		"storeapi.Resize":      "also the point layered.resize; a repeated request finds the size",
		"stage.fence.recorded": "TestForceDetach: the device of a fenced node ends",
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
		return api && slices.Contains(readOnly(), method) || strings.HasPrefix(p, "failpoint.") || skip[p] != ""
	})
	slices.Sort(all)
	return slices.Compact(all)
}

// reviver starts processes again that have ended, as kubelet and systemd do, without
// what made them end.
type reviver struct {
	mu   sync.Mutex
	ends map[*process]int
	stop context.CancelFunc
	done chan struct{}
}

func revive(c *cluster, procs ...*process) *reviver {
	ctx, cancel := context.WithCancel(c.t.Context())
	r := &reviver{ends: map[*process]int{}, stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			for _, p := range procs {
				if p.running() {
					continue
				}
				r.mu.Lock()
				r.ends[p]++
				r.mu.Unlock()
				p.env = nil
				p.start()
			}
		}
	}()
	return r
}

// end stops reviving and tells how often p was revived.
func (r *reviver) end(p *process) int {
	r.stop()
	<-r.done
	return r.ends[p]
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
	var table []string
	for _, point := range points(t) {
		if strings.HasPrefix(point, "volume.copy.") || point == "volume.create.forwarded" || point == "volume.delete.unforwarded" {
			continue // TestKillAtEveryStepOfACopy
		}
		victim, ready := c.victim(point)
		victim.stop()
		victim.env = []string{"STRATA_FAILPOINT=" + point}
		victim.start()
		ready()
		began := time.Now()
		rev := revive(c, c.stores[0].process, c.controller.process, c.nodes["n1"].process)
		life(t, c, r.Uint64(), strings.HasPrefix(point, "stage."))
		ends := rev.end(victim)
		line := fmt.Sprintf("%-32s %-12s killed %d× whole life %v", point, victim.name, ends, time.Since(began).Round(time.Millisecond))
		table = append(table, line)
		if ends == 0 {
			t.Errorf("%s was not passed", point)
		}
		if c.ended(); t.Failed() {
			t.Fatalf("after a kill at %s: see above", point)
		}
		c.noNotes(c.stores[0])
	}
	c.log.clean(t)
	t.Logf("%d points:\n%s", len(table), strings.Join(table, "\n"))
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
