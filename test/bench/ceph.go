package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/strata-csi/strata/test/ceph/cluster"
)

const (
	// cephPool is the pool with all images, strata's and those of rbd-nbd.
	cephPool = "bench"
	// cephImage is the one that rbd-nbd serves.
	cephImage = cephPool + "/peer"
	// cephBytes is what the OSD keeps in memory at most.
	cephBytes = 2 << 30
	// ioTimeout of rbd-nbd in seconds. What was in flight when it died is sent again only
	// then, and before the dead client's watch has expired, after 30 s, in vain.
	ioTimeout = "45"
)

// cephLab is a Ceph cluster on this machine with two images of the same bytes, features
// and object size: strata's is mapped as users do, by a gateway and a node process; the
// other one is for rbd-nbd.
type cephLab struct {
	*lab
	ceph          *cluster.Cluster
	gateway, node *exec.Cmd
	device        string // of strata's image
}

// benchCeph measures strata beside rbd-nbd.
func benchCeph(ctx context.Context, o options, dir string) (err error) {
	l, err := newCephLab(ctx, o, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.end()) }()
	for _, c := range l.cases() {
		if err := l.measure(c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	if err := l.recovery(); err != nil {
		return fmt.Errorf("recovery: %w", err)
	}
	return l.memory()
}

func newCephLab(ctx context.Context, o options, dir string) (*cephLab, error) {
	c, err := cluster.Start(ctx, cluster.Options{Dir: filepath.Join(dir, "ceph"), Pools: []string{cephPool}, Bytes: cephBytes})
	if err != nil {
		return nil, err
	}
	l := &cephLab{lab: &lab{options: o, ctx: ctx, dir: dir, data: filepath.Join(dir, "gateway"), env: c.Env()}, ceph: c}
	if err := l.prepare(); err != nil {
		return nil, errors.Join(err, l.end())
	}
	return l, nil
}

// prepare starts strata's processes and makes the images.
func (l *cephLab) prepare() error {
	text := fmt.Sprintf("clusters: [{name: bench, conf: %s, user: admin}]\n"+
		"pools: [{name: default, backend: ceph, cluster: bench, cephPool: %s, local: %s}]\n", l.ceph.Conf(), cephPool, l.data)
	if err := os.WriteFile(l.file("pools.yaml"), []byte(text), 0o600); err != nil {
		return err
	}
	if err := l.startGateway("--init"); err != nil {
		return err
	}
	csi := l.file("csi.sock")
	p, err := l.start(csi, l.strata, "node", "--endpoint", "unix://"+csi, "--pools", l.file("pools.yaml"), "--node-id", "bench", "--state", l.file("node"))
	if err != nil {
		return err
	}
	l.node = p
	raw := l.file("raw")
	if err := l.do("dd", "if=/dev/urandom", "of="+raw, "bs=1M", fmt.Sprintf("count=%d", imageSize), "status=none"); err != nil {
		return err
	}
	if err := l.do("rbd", "import", "--no-progress", raw, cephImage); err != nil {
		return err
	}
	if err := l.tool("create", "--size", fmt.Sprintf("%dM", imageSize), "strata"); err != nil {
		return err
	}
	if l.device, err = l.mapImage("strata"); err != nil {
		return err
	}
	// Through the device, as the data of a volume come.
	if err := l.do("dd", "if="+raw, "of="+l.device, "bs=1M", "oflag=direct", "status=none"); err != nil {
		return err
	}
	return os.Remove(raw)
}

func (l *cephLab) startGateway(flags ...string) error {
	p, err := l.start(l.data+"/api.sock", l.strata, append([]string{"store", "--backend", "rbd",
		"--data", l.data, "--pools", l.file("pools.yaml"), "--pool", "default"}, flags...)...)
	l.gateway = p
	return err
}

// mapImage makes a device of an image of strata's and returns its path.
func (l *cephLab) mapImage(name string) (string, error) {
	out, err := exec.CommandContext(l.ctx, l.strata, "map", name, "--state", l.file("node")).Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		err = fmt.Errorf("%w: %s", err, failed.Stderr)
	}
	if err != nil {
		return "", fmt.Errorf("map %s: %w", name, err)
	}
	return string(bytes.TrimSpace(out)), nil
}

func (l *cephLab) unmapImage(name string) error {
	return l.do(l.strata, "unmap", name, "--state", l.file("node"))
}

// end ends everything; what does not run is passed over.
func (l *cephLab) end() error {
	var err error
	if l.device != "" {
		err = l.unmapImage("strata")
	}
	for _, p := range []*exec.Cmd{l.node, l.gateway} {
		if p != nil {
			err = errors.Join(err, stop(p))
		}
	}
	return errors.Join(err, l.ceph.Close())
}

func (l *cephLab) cases() []testCase {
	own := subject{"strata", func() (string, int, func() error, error) {
		return l.device, l.gateway.Process.Pid, func() error { return nil }, nil
	}}
	all := []subject{own, l.rbdNBD("rbd-nbd", false), l.rbdNBD("rbd-nbd, cache on", true)}
	const target = "rate ≥ 1 of rbd-nbd with the same cache, which is none"
	return []testCase{
		{"Ceph: 4 KiB random read, 1 in flight", workload{rw: "randread", bs: "4k", depth: 1}, all, target},
		{"Ceph: 4 KiB random read, 32 in flight", workload{rw: "randread", bs: "4k", depth: 32}, all, target},
		{"Ceph: 4 KiB random write, 1 in flight", workload{rw: "randwrite", bs: "4k", depth: 1}, all, target},
		{"Ceph: 4 KiB random write, 32 in flight", workload{rw: "randwrite", bs: "4k", depth: 32}, all, target},
		{"Ceph: 1 MiB sequential read, 4 in flight", workload{rw: "read", bs: "1m", depth: 4}, all, target},
		{"Ceph: 1 MiB sequential write, 4 in flight", workload{rw: "write", bs: "1m", depth: 4}, all, target},
	}
}

// rbdNBD is rbd-nbd, mapped anew for each measurement.
func (l *cephLab) rbdNBD(name string, cache bool) subject {
	return subject{name, func() (string, int, func() error, error) {
		p, err := l.mapPeer(cephImage, "map", fmt.Sprintf("--rbd_cache=%t", cache))
		if err != nil {
			return "", 0, nil, err
		}
		return p.device, p.cmd.Process.Pid, p.unmap, nil
	}}
}

// peer is a process of rbd-nbd and its device.
type peer struct {
	l      *cephLab
	cmd    *exec.Cmd
	device string
	ended  chan struct{} // closed when the process has ended, however that was
}

// mapPeer starts rbd-nbd and returns when it has told its device's path.
func (l *cephLab) mapPeer(image, verb string, flags ...string) (*peer, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	log, err := os.CreateTemp(l.dir, "rbd-nbd-*.log")
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	defer func() { _ = log.Close() }()
	args := append([]string{verb, "-f", "--try-netlink", "--cookie", strings.ReplaceAll(image, "/", "-"),
		"--reattach-timeout", "600", "--io-timeout", ioTimeout}, flags...)
	p := &peer{l: l, cmd: exec.CommandContext(l.ctx, "rbd-nbd", append(args, image)...), ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = l.ceph.Env(), w, log
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait()
	}()
	_ = w.Close()
	_ = r.SetReadDeadline(time.Now().Add(time.Minute))
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		_ = p.cmd.Process.Kill()
		<-p.ended
		if errors.Is(err, io.EOF) {
			err = errors.New("it ended")
		}
		return nil, fmt.Errorf("rbd-nbd %s %s: %w\n%s", verb, image, err, text)
	}
	p.device = strings.TrimSpace(line)
	return p, nil
}

// unmap ends the device and, with it, the process.
func (p *peer) unmap() error {
	if err := p.l.do("rbd-nbd", "unmap", p.device); err != nil {
		return err
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(time.Minute):
		return fmt.Errorf("rbd-nbd has not ended a minute after its device %s", p.device)
	}
}

// kill ends the process as a crash would.
func (p *peer) kill() error {
	err := p.cmd.Process.Kill()
	<-p.ended
	return err
}
