// Command cluster keeps a Ceph cluster running for whoever develops against one:
//
//	go run ./test/ceph/cmd/cluster [-dir DIR] [-store bluestore] [-pools a,b]
//
// prints CEPH_CONF=… once it is ready, and ends the cluster on SIGINT or SIGTERM. With a
// program and its arguments it runs that instead, with CEPH_CONF set, and ends with it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/strata-csi/strata/test/ceph/cluster"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	dir := flag.String("dir", "", "folder of the cluster, missing or empty; kept (default: a temporary one)")
	store := flag.String("store", cluster.MemStore, "object store: memstore or bluestore")
	pools := flag.String("pools", "rbd", "pools to make, separated by commas")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	c, err := cluster.Start(ctx, cluster.Options{
		Dir: *dir, ObjectStore: *store, Pools: strings.Split(*pools, ","),
	})
	if err != nil {
		return err
	}
	defer func() {
		if e := c.Close(); err == nil {
			err = e
		}
	}()
	if flag.NArg() > 0 {
		cmd := exec.CommandContext(ctx, flag.Arg(0), flag.Args()[1:]...)
		cmd.Env = c.Env()
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		return cmd.Run()
	}
	fmt.Printf("CEPH_CONF=%s\n", c.Conf())
	<-ctx.Done()
	return nil
}
