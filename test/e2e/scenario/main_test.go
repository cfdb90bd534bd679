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

// workers are the nodes with NBD.
var workers = []string{cluster.GuestNode(1), cluster.GuestNode(2)}

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
	o := cluster.Options{
		Bin: bin, Work: filepath.Clean(work), Audit: namespace, Guests: len(workers), MemoryMB: 3072, Report: rep,
		Images: []string{filepath.Join(work, "strata", "current.tar")},
	}
	if os.Getenv("STRATA_E2E_ATTACH") != "" {
		if up, err = cluster.Attach(o); err != nil {
			return 0, err
		}
		return m.Run(), nil
	}
	if up, err = cluster.Up(ctx, o); err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, rep.Step("cluster ended", up.Down))
	}()
	if err := setUp(ctx); err != nil {
		if os.Getenv("STRATA_E2E_HOLD") == "" {
			return 0, err
		}
		rep.Say("%v", err)
	}
	// Tests do not look at ctx: an interrupt ends them and the cluster here.
	interrupted := context.AfterFunc(ctx, func() {
		if err := up.Down(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
		}
		os.Exit(130)
	})
	code = m.Run()
	interrupted()
	if os.Getenv("STRATA_E2E_HOLD") != "" && ctx.Err() == nil {
		rep.Say("held; interrupt to end it. Run tests on it: STRATA_E2E_ATTACH=%s hack/e2e.sh -test.run …", work)
		rep.Say("or look around in its namespaces (nsenter -t PID -n -m -p), with %s:", bin)
		rep.Say("  export KUBECONFIG=%s", up.Kubeconfig)
		<-ctx.Done()
	}
	return code, nil
}

// setUp installs strata.
func setUp(ctx context.Context) error {
	for _, s := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"images of the sidecars", importSidecars},
		{"nodes labelled", labelNodes},
		{"rendered objects shown to the API server", showRendered},
		{"chart installed, all pods ready", install},
	} {
		if err := rep.Step(s.name, func() error { return s.do(ctx) }); err != nil {
			return err
		}
	}
	return nil
}
