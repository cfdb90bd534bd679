// Command demo shows strata on real data, from an empty directory to an empty
// directory, in under two minutes.
//
// A file system with the Go source in it is imported; 24 generations of clone-of-clone
// follow, each changed for real by programs that know nothing of strata; automatic flatten
// keeps the depth at the limit while a client reads and writes; then parents, snapshots
// and children are deleted in hostile order, with a SIGKILL in the middle, and every image
// that is left is compared byte for byte with a copy kept outside strata.
//
// Everything happens in one scratch directory that is removed at the end, and the only
// processes ended are those that it started.
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
)

func main() {
	binary := flag.String("strata", "bin/strata", "the strata binary")
	scratch := flag.String("scratch", os.TempDir(), "directory to make the scratch directory in (needs 3 GiB)")
	keep := flag.Bool("keep", false, "keep the scratch directory")
	seed := flag.Uint64("seed", 1, "seed of every random choice")
	flag.Parse()

	// A reader that goes away (make demo | head) must not keep us from tidying up either.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	if err := run(ctx, *binary, *scratch, *keep, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, binary, scratch string, keep bool, seed uint64) (err error) {
	binary, err = filepath.Abs(binary)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(scratch, "strata-demo-")
	if err != nil {
		return err
	}
	if keep {
		fmt.Println("scratch:", dir)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	s := newStory(ctx, binary, dir, seed)
	defer func() { err = errors.Join(err, s.end()) }()
	if err := s.tell(); err != nil {
		return err
	}
	s.table()
	return nil
}
