// Command bench measures strata beside its peers, in one run on one machine.
//
// Each case is measured in rounds; in each round every subject has its turn, so that
// what else the machine does hits all alike. Printed are medians over the rounds: the
// rate, the CPU time of the server for each request, the latency, and strata's ratio to
// each peer. Nothing is judged: a figure is what it is.
//
// On a small machine the client is the bottleneck at times. nbdkit's null plugin is in
// every table of requests to show what the client can do; a ratio of rates says little
// where null is not at least 1.3 times the peer, and such rows are marked.
//
// With -ceph a gateway and its kernel devices are measured beside rbd-nbd, on one Ceph
// cluster: rates, how long I/O stands still when the server is killed, and memory. That
// wants root and a kernel with NBD; hack/ceph-bench.sh has a guest for it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// options of a run.
type options struct {
	strata  string
	dir     string
	rounds  int
	seconds time.Duration
	only    string
	ceph    bool
}

func main() {
	var o options
	flag.StringVar(&o.strata, "strata", "bin/strata", "the strata binary")
	flag.StringVar(&o.dir, "dir", "/dev/shm", "directory to make the scratch directory in (needs 2 GiB; memory keeps the disk out of the figures)")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of each case")
	flag.DurationVar(&o.seconds, "time", 2*time.Second, "time of each measurement of requests")
	flag.StringVar(&o.only, "only", "", "run only cases whose name contains this")
	flag.BoolVar(&o.ceph, "ceph", false, "measure a gateway of Ceph beside rbd-nbd instead, on a cluster and with devices of this machine (see hack/ceph-bench.sh)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.strata, err = filepath.Abs(o.strata); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "strata-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if o.ceph {
		return benchCeph(ctx, o, dir)
	}
	l, err := newLab(ctx, o, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.end()) }()
	for _, c := range l.cases() {
		if err := l.measure(c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return l.flattenBesideCopy()
}
