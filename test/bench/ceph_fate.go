package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// recoverWithin bounds how long a writer may wait for a server that has been killed.
const recoverWithin = 3 * time.Minute

// writer writes 4 KiB after 4 KiB past the page cache.
type writer struct {
	answered atomic.Int64
	stop     chan struct{}
	ended    chan error
}

func startWriter(device string) (*writer, error) {
	f, err := os.OpenFile(device, os.O_RDWR|syscall.O_DIRECT, 0)
	if err != nil {
		return nil, err
	}
	w := &writer{stop: make(chan struct{}), ended: make(chan error, 1)}
	go func() { w.ended <- errors.Join(w.run(f), f.Close()) }()
	return w, nil
}

func (w *writer) run(f *os.File) error {
	const size = 4096
	room := make([]byte, 2*size)
	at := size - int(uintptr(unsafe.Pointer(&room[0]))%size) // direct I/O wants it aligned
	for n := int64(0); ; n++ {
		select {
		case <-w.stop:
			return nil
		default:
		}
		if _, err := f.WriteAt(room[at:at+size], n*size%(imageSize<<20)); err != nil {
			return err
		}
		w.answered.Add(1)
	}
}

// reach waits until n more writes were answered.
func (w *writer) reach(n int64) error {
	tick, late := time.NewTicker(time.Millisecond), time.NewTimer(recoverWithin)
	defer tick.Stop()
	defer late.Stop()
	for want := w.answered.Load() + n; w.answered.Load() < want; {
		select {
		case <-tick.C:
		case err := <-w.ended:
			w.ended <- err
			return fmt.Errorf("the writer has ended: %w", err)
		case <-late.C:
			return fmt.Errorf("no write was answered within %v", recoverWithin)
		}
	}
	return nil
}

func (w *writer) halt() error {
	close(w.stop)
	select {
	case err := <-w.ended:
		return err
	case <-time.After(recoverWithin):
		return errors.New("a write does not come back")
	}
}

// recovery kills the servers under a writer and starts them again at once, in turn, and
// prints how long the writer stood still.
func (l *cephLab) recovery() error {
	const name = "Ceph: I/O goes on after kill -9"
	if !strings.Contains(name, l.only) {
		return nil
	}
	var own, peers []time.Duration
	fate := ""
	for range l.rounds {
		d, err := l.recoverOwn()
		if err != nil {
			return fmt.Errorf("strata: %w", err)
		}
		own = append(own, d)
		if fate != "" {
			continue // its device is of no use any more
		}
		if d, err = l.recoverPeer(); err != nil {
			fate = err.Error()
			continue
		}
		peers = append(peers, d)
	}
	fmt.Printf("\n%s and a new start at once, median and worst of %d\n  strata   %s\n", name, l.rounds, spread(own))
	if len(peers) > 0 {
		fmt.Printf("  rbd-nbd  %s (--io-timeout %s; attach with the same cookie)\n", spread(peers), ioTimeout)
	}
	if fate != "" {
		fmt.Printf("  rbd-nbd  has failed in round %d: %s\n", len(peers)+1, fate)
	}
	return nil
}

func spread(all []time.Duration) string {
	slices.Sort(all)
	return fmt.Sprintf("%v, %v", all[len(all)/2].Round(time.Millisecond), all[len(all)-1].Round(time.Millisecond))
}

// recoverOwn kills strata's gateway.
func (l *cephLab) recoverOwn() (time.Duration, error) {
	return l.standstill(l.device, func() error {
		if err := l.gateway.Process.Kill(); err != nil {
			return err
		}
		_ = l.gateway.Wait() // it was killed
		return l.startGateway()
	})
}

// recoverPeer kills rbd-nbd, and has another one attach the device.
func (l *cephLab) recoverPeer() (time.Duration, error) {
	p, err := l.mapPeer(cephImage, "map", "--rbd_cache=false")
	if err != nil {
		return 0, err
	}
	d, err := l.standstill(p.device, func() error {
		if err := p.kill(); err != nil {
			return err
		}
		again, err := l.mapPeer(cephImage, "attach", "--rbd_cache=false", "--device", p.device)
		if err == nil {
			p = again
		}
		return err
	})
	if err != nil {
		_ = p.kill() // what it serves is dead
		_ = l.do("rbd-nbd", "unmap", p.device)
		return 0, err
	}
	return d, p.unmap()
}

// standstill is how long a writer to a device waits when fell is done.
func (l *cephLab) standstill(device string, fell func() error) (time.Duration, error) {
	w, err := startWriter(device)
	if err != nil {
		return 0, err
	}
	if err := w.reach(20); err != nil {
		return 0, errors.Join(err, w.halt())
	}
	begin := time.Now()
	err = fell()
	if err == nil {
		err = w.reach(2) // the second was begun afterwards for certain
	}
	took := time.Since(begin)
	return took, errors.Join(err, w.halt())
}

// memory maps twenty images with either and prints what the processes hold then, shared
// pages counted in proportion.
func (l *cephLab) memory() (err error) {
	const name = "Ceph: memory with 20 devices"
	if !strings.Contains(name, l.only) {
		return nil
	}
	const devices = 20
	var peers []*peer
	defer func() {
		for i := range devices {
			_ = l.unmapImage(fmt.Sprintf("many%d", i))
		}
		for _, p := range peers {
			err = errors.Join(err, p.unmap())
		}
	}()
	touch := func(device string) error {
		return l.do("dd", "if=/dev/zero", "of="+device, "bs=1M", "count=4", "oflag=direct", "status=none")
	}
	var sum int64
	for i := range devices {
		image := fmt.Sprintf("many%d", i)
		if err := l.tool("create", "--size", "64M", image); err != nil {
			return err
		}
		device, err := l.mapImage(image)
		if err != nil {
			return err
		}
		if err := l.do("rbd", "create", "--size", "64M", cephPool+"/"+image); err != nil {
			return err
		}
		p, err := l.mapPeer(cephPool+"/"+image, "map", "--rbd_cache=false")
		if err != nil {
			return err
		}
		peers = append(peers, p)
		if err := errors.Join(touch(device), touch(p.device)); err != nil {
			return err
		}
	}
	for _, p := range peers {
		m, err := memoryOf(p.cmd.Process.Pid)
		if err != nil {
			return err
		}
		sum += m
	}
	gateway, err := memoryOf(l.gateway.Process.Pid)
	if err != nil {
		return err
	}
	node, err := memoryOf(l.node.Process.Pid)
	if err != nil {
		return err
	}
	fmt.Printf("\n%s, each written to, in MiB (target: less)\n  strata   %d (gateway %d, node %d)\n  rbd-nbd  %d (%d processes)\n",
		name, (gateway+node)>>20, gateway>>20, node>>20, sum>>20, devices)
	return nil
}

// memoryOf is the memory of a process in bytes, see smaps_rollup in proc(5).
func memoryOf(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			var kib int64
			_, err := fmt.Sscan(rest, &kib)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no Pss in smaps_rollup of process %d", pid)
}
