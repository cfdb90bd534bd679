//go:build kernelnbd

package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/pkg/export"
	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/pki"
	"github.com/strata-csi/strata/pkg/store"
)

// secret is what must not be seen on the wire.
var secret = []byte("known plaintext that nobody on the wire may read")

// Over TLS as over anything else: kills cost time only. The connection is replaced
// while it is used, long before its key is used up, and nobody notices that either.
func TestStoreIsKilledOverTLS(t *testing.T) {
	const kills = 5
	rnd, r := random(t), newRemote(t, "--tls-key-limit", "16777216")
	v := r.create("victim", 512*mib, fsVolume("ext4"), nil, nil)
	at := r.up(v, "n1")
	seen := startCapture(t, r.cable(), secret[:16])
	writeSecret(t, filepath.Join(at, "secret"), 8*mib)
	fio := startFio(t, at, 32*mib)
	steady := startSteady(t, filepath.Join(at, "steady"), 8*mib, rnd)
	steady.advance(t, 20, time.Minute)
	var resumed []time.Duration
	for range kills {
		pause(t, between(rnd, time.Second, 3*time.Second))
		killed := time.Now()
		r.store.kill()
		r.store.start()
		r.reachable()
		steady.advance(t, 2, resumeBound)
		resumed = append(resumed, time.Since(killed))
	}
	report(t, "I/O over TLS goes on after the kill", resumed)
	renewed := r.countInLog(r.nodes["n1"].process, "link renewed")
	eventually(t, 2*time.Minute, "connections are replaced under load", func(context.Context) error {
		if r.countInLog(r.nodes["n1"].process, "link renewed") < renewed+2 {
			return os.ErrDeadlineExceeded
		}
		return nil
	})
	t.Logf("%d replacements of the connection under load", r.countInLog(r.nodes["n1"].process, "link renewed"))
	steady.verify(t)
	fio.verify(t)
	seen.stop()
	if seen.hits > 0 || seen.bytes < 32*mib || seen.err != nil {
		t.Errorf("%d of %d packets show the pattern (%d MiB seen, %v)", seen.hits, seen.packets, seen.bytes/mib, seen.err)
	}
	r.log.clean(t)
	r.down(v, "n1")
	r.fsck(r.store, "victim", "ext4")
	r.remove(v)
	r.ended()
}

func (c *cluster) countInLog(p *process, word string) int {
	c.t.Helper()
	b, err := os.ReadFile(p.log)
	if err != nil {
		c.t.Fatal(err)
	}
	return bytes.Count(b, []byte(word))
}

// writeSecret fills a file with the secret and brings it to the store.
func writeSecret(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(bytes.Repeat(secret, int(size)/len(secret))); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// The same bytes in the clear are seen by the same capture; and what TLS costs.
func TestTLSAgainstPlainTCP(t *testing.T) {
	for _, way := range []struct {
		name   string
		make   func(t *testing.T) *remote
		hidden bool
	}{
		{"plain TCP", newPlainRemote, false},
		{"TLS", func(t *testing.T) *remote { return newRemote(t) }, true},
	} {
		t.Run(way.name, func(t *testing.T) {
			r := way.make(t)
			v := r.create("measured", 512*mib, fsVolume("ext4"), nil, nil)
			at := r.up(v, "n1")
			seen := startCapture(t, r.cable(), secret[:16])
			writeSecret(t, filepath.Join(at, "secret"), 8*mib)
			seen.stop()
			if got := seen.hits == 0; got != way.hidden || seen.bytes < 8*mib || seen.err != nil {
				t.Errorf("the pattern was in %d of %d packets (%d bytes, %v); hidden should be %t",
					seen.hits, seen.packets, seen.bytes, seen.err, way.hidden)
			}
			for _, rw := range []string{"write", "read"} {
				measure(t, r, at, rw)
			}
			r.down(v, "n1")
			r.remove(v)
			r.log.clean(t)
			r.ended()
		})
	}
}

// measure prints the rate of one kind of access and the processor time it took.
func measure(t *testing.T, r *remote, at, rw string) {
	t.Helper()
	all, own := busy(t), r.store.cpu()
	out, err := exec.CommandContext(t.Context(), "fio", "--name=rate", "--filename="+filepath.Join(at, "rate"), "--size=192m",
		"--rw="+rw, "--bs=1m", "--direct=1", "--ioengine=libaio", "--iodepth=4", "--end_fsync=1", "--thread", "--output-format=json").Output()
	if err != nil {
		t.Fatalf("fio: %v\n%s", err, out)
	}
	var report struct {
		Jobs []map[string]json.RawMessage `json:"jobs"`
	}
	var side struct {
		Bytes float64 `json:"bw_bytes"`
	}
	if err := json.Unmarshal(out, &report); err != nil || len(report.Jobs) != 1 {
		t.Fatalf("fio: %v in %s", err, out)
	}
	if err := json.Unmarshal(report.Jobs[0][rw], &side); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %.0f MiB/s; processor time for 192 MiB: %v in the store, %v in the whole guest",
		rw, side.Bytes/float64(mib), r.store.cpu()-own, busy(t)-all)
}

// refusals are ways to come to a store that must not lead anywhere.
func (r *remote) refusals(mine, others store.Publication) map[string]func(d *nbd.KernelDial) {
	foreign, expired, untrusted := filepath.Join(r.dir, "foreign"), filepath.Join(r.dir, "expired"), pki.RoleFiles(r.pki, pki.RoleNode)
	for dir, terms := range map[string]pki.Terms{
		foreign: {Years: 1, CAYears: 1}, expired: {Years: 1, CAYears: 9, Now: time.Now().AddDate(-3, 0, 0)},
	} {
		if err := pki.Init(dir, terms); err != nil {
			r.cluster.t.Fatal(err)
		}
	}
	other := pki.RoleFiles(foreign, pki.RoleNode)
	// Trusts the store, and is not trusted by it.
	untrusted.Cert, untrusted.Key = other.Cert, other.Key
	old := pki.RoleFiles(r.pki, pki.RoleNode)
	late := pki.RoleFiles(expired, pki.RoleNode)
	old.Cert, old.Key = late.Cert, late.Key
	return map[string]func(d *nbd.KernelDial){
		"no TLS":                         func(d *nbd.KernelDial) { d.TLS = nil },
		"certificate of another CA":      func(d *nbd.KernelDial) { d.TLS = untrusted.Client() },
		"expired certificate":            func(d *nbd.KernelDial) { d.TLS = old.Client() },
		"no certificate":                 func(d *nbd.KernelDial) { d.TLS.GetClientCertificate, d.TLS.Certificates = nil, nil },
		"certificate of another role":    func(d *nbd.KernelDial) { d.TLS = pki.RoleFiles(r.pki, pki.RoleStore).Client() },
		"a store that is not the store":  func(d *nbd.KernelDial) { d.TLS = other.Client() },
		"wrong token":                    func(d *nbd.KernelDial) { d.Export = export.Name(withToken(mine, strings.Repeat("0", 32)), 1) },
		"token of another image":         func(d *nbd.KernelDial) { d.Export = export.Name(withToken(mine, others.Token), 1) },
		"the image's name, unpublished":  func(d *nbd.KernelDial) { d.Export = "mine" },
		"the snapshot of somebody's":     func(d *nbd.KernelDial) { d.Export = "mine@snap" },
		"an image that does not exist":   func(d *nbd.KernelDial) { d.Export = "nonesuch" },
		"the epoch after the right one":  func(d *nbd.KernelDial) { p := mine; p.Epoch++; d.Export = export.Name(p, 1) },
		"the epoch before the right one": func(d *nbd.KernelDial) { p := mine; p.Epoch--; d.Export = export.Name(p, 1) },
	}
}

func withToken(p store.Publication, token string) store.Publication {
	p.Token = token
	return p
}

// publication publishes a volume to n1 and says what that node is told.
func (r *remote) publication(v *volume) store.Publication {
	r.cluster.t.Helper()
	r.attach(v, "n1")
	c := v.published["n1"]
	epoch, err := strconv.ParseUint(c["epoch"], 10, 64)
	if err != nil {
		r.cluster.t.Fatal(err)
	}
	return store.Publication{Target: store.ID(c["image"]), Epoch: epoch, Token: c["token"]}
}

// What comes with the wrong papers is refused, and costs the store nothing that stays.
func TestTLSRefuses(t *testing.T) {
	r := newRemote(t)
	own, foreign := r.create("mine", 64*mib, rawVolume(), nil, nil), r.create("others", 64*mib, rawVolume(), nil, nil)
	r.snapshot(own, "snap")
	mine, others := r.publication(own), r.publication(foreign)
	dial := func(change func(d *nbd.KernelDial)) error {
		d := nbd.KernelDial{
			Target: nbd.Target{Network: "tcp", Address: r.host.addr + ":" + nbdPort},
			Export: export.Name(mine, uint64(time.Now().UnixNano())), TLS: pki.RoleFiles(r.pki, pki.RoleNode).Client(),
		}
		change(&d)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		f, _, err := nbd.DialKernel(ctx, d)
		if err == nil {
			f.Close()
		}
		return err
	}
	if err := dial(func(*nbd.KernelDial) {}); err != nil {
		t.Fatalf("the right papers: %v", err)
	}
	refusals := r.refusals(mine, others)
	files := r.store.openFiles()
	for range 3 {
		for name, change := range refusals {
			err := dial(change)
			if err == nil {
				t.Errorf("%s: was let in", name)
				continue
			}
			t.Logf("%s: %v", name, err)
			if strings.Contains(err.Error(), mine.Token) || strings.Contains(err.Error(), others.Token) {
				t.Errorf("%s: the error holds a token", name)
			}
		}
	}
	eventually(t, time.Minute, "the store lets go of refused connections", func(context.Context) error {
		if now := r.store.openFiles(); now > files {
			return unix.EMFILE
		}
		return nil
	})
	for _, token := range []string{mine.Token, others.Token} {
		for _, p := range []*process{r.store.process, r.controller.process, r.nodes["n1"].process} {
			if r.countInLog(p, token) > 0 {
				t.Errorf("the log of %s holds a token", p.name)
			}
		}
	}
	if err := dial(func(*nbd.KernelDial) {}); err != nil {
		t.Errorf("the right papers after all that: %v", err)
	}
}

// imageOf is the image's id in a volume's.
func imageOf(v *volume) string { return strings.Split(v.GetVolumeId(), ":")[2] }

// openFiles counts the descriptors of a process.
func (p *process) openFiles() int {
	p.t.Helper()
	list, err := os.ReadDir(filepath.Join("/proc", p.pid(), "fd"))
	if err != nil {
		p.t.Fatal(err)
	}
	return len(list)
}
