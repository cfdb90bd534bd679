package main

import (
	"fmt"
	"os"
	"os/exec"
)

// subject is one server to measure. begin returns where it serves, a URI or a device, its
// process and how to end it.
type subject struct {
	name  string
	begin func() (uri string, pid int, end func() error, err error)
}

// workload is what fio does.
type workload struct {
	rw, bs string
	depth  int
	// once: every block once, and no longer; the target is new each time.
	once bool
}

// testCase compares subjects, the first of which is strata's.
type testCase struct {
	name string
	workload
	subjects []subject
	target   string
}

func (l *lab) cases() []testCase {
	null := l.peer("nbdkit null", "nbdkit", "-f", "-U", "%s", "null", fmt.Sprintf("%dM", imageSize))
	file := l.peer("nbdkit file", "nbdkit", "-f", "-U", "%s", "file", l.file("raw"))
	raw := l.peer("qemu-nbd raw", "qemu-nbd", "-t", "-e", "8", "-f", "raw", "-k", "%s", l.file("raw"))
	child, shallow, deep := l.image("strata clone", "child"), l.image("strata depth 1", "child"), l.image("strata depth 64", "deep63")
	all := []subject{child, file, raw, null}
	return []testCase{
		{"4 KiB random read, 32 in flight", workload{rw: "randread", bs: "4k", depth: 32}, all, "CPU ≤ 0.65 of nbdkit file, ≤ 0.25 of qemu-nbd; rate ≥ 1.5 and ≥ 4"},
		{"4 KiB random read, 1 in flight", workload{rw: "randread", bs: "4k", depth: 1}, all, "latency ≤ 0.6 of nbdkit file"},
		{"4 KiB random read at depth", workload{rw: "randread", bs: "4k", depth: 32}, []subject{deep, shallow}, "CPU ≤ 1.03"},
		{"4 KiB random overwrite, 32 in flight", workload{rw: "randwrite", bs: "4k", depth: 32}, []subject{l.image("strata image", "base"), file, raw, null}, "CPU ≤ 0.9 of nbdkit file; rate ≥ 1"},
		{"first 4 KiB write into a clone, 32 in flight", workload{rw: "randwrite", bs: "4k", depth: 32, once: true}, []subject{l.fresh(), l.image("strata overwrite", "base"), l.overlay()}, "CPU ≤ 1.3 of overwrite; rate ≥ 4 of qcow2"},
		{"1 MiB sequential read, 4 in flight", workload{rw: "read", bs: "1m", depth: 4}, all, "rate ≥ 1.2 of nbdkit file"},
		{"1 MiB sequential write, 4 in flight", workload{rw: "write", bs: "1m", depth: 4}, []subject{l.image("strata image", "base"), file, raw, null}, "rate ≥ 1.2 of nbdkit file"},
	}
}

// image is one of the store's.
func (l *lab) image(name, image string) subject {
	return subject{name, func() (string, int, func() error, error) {
		return l.uri(image), l.proc.Process.Pid, func() error { return nil }, nil
	}}
}

// fresh is a new clone each time.
func (l *lab) fresh() subject {
	return subject{"strata new clone", func() (string, int, func() error, error) {
		l.serial++
		name := fmt.Sprintf("new%d", l.serial)
		end := func() error { return l.tool("rm", name) }
		return l.uri(name), l.proc.Process.Pid, end, l.tool("clone", "base@s", name)
	}}
}

// peer is another server; %s among the arguments is its socket.
func (l *lab) peer(name, program string, args ...string) subject {
	return subject{name, func() (string, int, func() error, error) {
		l.serial++
		socket := l.file(fmt.Sprintf("p%d.sock", l.serial))
		own := make([]string, len(args))
		for i, a := range args {
			if own[i] = a; a == "%s" {
				own[i] = socket
			}
		}
		cmd, err := l.start(socket, program, own...)
		if err != nil {
			return "", 0, nil, err
		}
		return "nbd+unix:///?socket=" + socket, cmd.Process.Pid, func() error { return ended(cmd, socket) }, nil
	}}
}

func ended(cmd *exec.Cmd, socket string) error {
	if err := stop(cmd); err != nil {
		return err
	}
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// overlay is a new qcow2 file over the raw one each time.
func (l *lab) overlay() subject {
	return subject{"qemu-nbd qcow2", func() (string, int, func() error, error) {
		path := l.file("overlay.qcow2")
		if err := l.do("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", l.file("raw"), path); err != nil {
			return "", 0, nil, err
		}
		return l.peer("", "qemu-nbd", "-t", "-e", "8", "-f", "qcow2", "-k", "%s", path).begin()
	}}
}
