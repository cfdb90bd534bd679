package scenario

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/strata-csi/strata/test/e2e/cluster"
	"github.com/strata-csi/strata/test/e2e/report"
)

// up is the cluster that all scenarios share: bringing one up takes a minute.
var up *cluster.Cluster //nolint:gochecknoglobals // set once, before the first test

// rep prints the steps of all.
var rep = report.New(os.Stdout) //nolint:gochecknoglobals // its clock starts with the program

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	bin, work := os.Getenv("STRATA_E2E_BIN"), os.Getenv("STRATA_E2E_WORK")
	if bin == "" || work == "" {
		return 0, errors.New("STRATA_E2E_BIN and STRATA_E2E_WORK are not set: run hack/e2e.sh")
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	up, err = cluster.Up(ctx, cluster.Options{
		Bin: bin, Work: filepath.Clean(work), Guests: 2, MemoryMB: 3072, Report: rep, Log: os.Stdout,
	})
	if err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, rep.Step("cluster ended", up.Down))
	}()
	return m.Run(), nil
}
