package interop

import (
	"fmt"
	"path/filepath"
	"testing"
)

func TestNbdcopy(t *testing.T) {
	l := need(t, "nbdcopy")
	s := start(t)
	rng := seeded(t)
	const size = 96 * mib
	file := sample(t, rng, size)
	for i, uri := range []func(string) string{s.uri, s.tcpURI} {
		for _, connections := range []int{1, 4} {
			name := fmt.Sprintf("img-%d-%d", i, connections)
			s.strata("create", "--size", fmt.Sprint(size), name)
			c := fmt.Sprintf("--connections=%d", connections)
			back := filepath.Join(t.TempDir(), "back.raw")
			l.run(c, "--flush", file, uri(name))
			l.run(c, uri(name), back)
			same(t, file, back)

			// From export to export: a clone of it must not change, its source neither.
			s.strata("create", "--size", fmt.Sprint(size), name+"-copy")
			l.run(c, "--flush", uri(name), uri(name+"-copy"))
			l.run("--synchronous", uri(name+"-copy"), back)
			same(t, file, back)
		}
	}
	l.result("%d MiB there and back, unix and TCP, 1 and 4 connections: equal", size/mib)
}

func TestNbdcopySnapshotUnderWrites(t *testing.T) {
	l := need(t, "nbdcopy")
	s := start(t)
	rng := seeded(t)
	const size = 64 * mib
	before, after := sample(t, rng, size), sample(t, rng, size)
	s.strata("create", "--size", fmt.Sprint(size), "img")
	l.run("--flush", before, s.uri("img"))
	s.strata("snap", "create", "img@before")
	s.strata("clone", "img@before", "child")
	l.run("--flush", after, s.uri("img"))

	back := filepath.Join(t.TempDir(), "back.raw")
	for ref, want := range map[string]string{"img": after, "img@before": before, "child": before} {
		l.run(s.uri(ref), back)
		same(t, want, back)
	}
	l.result("snapshot and clone keep what was, the image has what is")
}
