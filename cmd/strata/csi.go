package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/strata-csi/strata/pkg/app"
)

const (
	// nodeState is where a node keeps its records.
	nodeState = "/var/lib/strata-node"
	// endpointEnv names the CSI socket, as the specification has it.
	endpointEnv = "CSI_ENDPOINT"
)

func (c *cli) controllerCmd() *cobra.Command {
	var cfg app.ControllerConfig
	cmd := &cobra.Command{
		Use:   "controller --pools FILE --endpoint unix:///PATH",
		Short: "Serve the CSI controller",
		Long: "Serve the CSI controller: volumes and snapshots over the stores of the pools. It keeps\n" +
			"nothing itself; several may run, and the sidecars' leader election says who is asked.",
		Example: "  strata controller --pools /etc/strata/pools.yaml --endpoint unix:///csi/csi.sock",
	}
	f := cmd.Flags()
	poolsFlag(cmd, &cfg.PoolsFile)
	f.StringVar(&cfg.Endpoint, "endpoint", c.env(endpointEnv), "CSI socket: unix:///PATH (env "+endpointEnv+")")
	webFlags(f, &cfg.Web)
	eventsFlag(f, &cfg.Events)
	f.DurationVar(&cfg.Stop, "stop-timeout", 0, "how long an orderly stop may take (default 30s)")
	return c.daemon(cmd, []string{"pools", "endpoint"}, func(ctx context.Context) error {
		cfg.Version = version
		return app.Controller(ctx, cfg)
	})
}

func (c *cli) nodeCmd() *cobra.Command {
	var cfg app.NodeConfig
	var indexes indexRange
	cmd := &cobra.Command{
		Use:   "node --pools FILE",
		Short: "Serve the CSI node, and strata map, on this host",
		Long: "Attach images to this host as kernel NBD devices, and keep them connected: for a CO\n" +
			"over CSI (--endpoint), and for strata map. Ending it or starting it anew does not\n" +
			"interrupt I/O. It needs root and the host's network namespace; see strata doctor.",
		Example: "  strata node --pools /etc/strata/pools.yaml --endpoint unix:///csi/csi.sock \\\n" +
			"    --registration-dir /registration --kubelet-endpoint /var/lib/kubelet/plugins/csi.strata.dev/csi.sock\n" +
			"  strata node --pools /etc/strata/pools.yaml",
	}
	poolsFlag(cmd, &cfg.PoolsFile)
	c.nodeFlags(cmd, &cfg, &indexes)
	return c.daemon(cmd, []string{"pools"}, func(ctx context.Context) error {
		if err := finishNode(&cfg, indexes); err != nil {
			return err
		}
		return app.Node(ctx, cfg)
	})
}

func (c *cli) allCmd() *cobra.Command {
	var cfg app.AllConfig
	var indexes indexRange
	cmd := &cobra.Command{
		Use:   "all --data DIR",
		Short: "Serve a store, the CSI controller and the CSI node in one process",
		Long: "Serve a data directory, the CSI controller and the CSI node of one machine in one\n" +
			"process. When it ends, I/O waits until it is started again; run the three by\n" +
			"themselves where that matters.",
		Example: "  strata all --data /var/lib/strata --init --endpoint unix:///tmp/csi.sock",
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Store.Data, "data", "", "data directory of the store")
	f.BoolVar(&cfg.Store.Init, "init", false, "make the data directory a new store first")
	f.BoolVar(&cfg.Store.AllowUnsafe, "allow-unsafe", false, "start without CAP_SYS_RESOURCE: devices could deadlock when memory is short")
	f.StringVar(&cfg.Pool, "pool", "default", "name of the pool that the store makes up")
	_ = cmd.MarkFlagDirname("data")
	c.nodeFlags(cmd, &cfg.Node, &indexes)
	return c.daemon(cmd, []string{"data"}, func(ctx context.Context) error {
		if err := finishNode(&cfg.Node, indexes); err != nil {
			return err
		}
		return adviseStore(app.All(ctx, cfg))
	})
}

// nodeFlags are those of every process that attaches devices.
func (c *cli) nodeFlags(cmd *cobra.Command, cfg *app.NodeConfig, indexes *indexRange) {
	f := cmd.Flags()
	f.StringVar(&cfg.Endpoint, "endpoint", c.env(endpointEnv), "CSI socket: unix:///PATH (env "+endpointEnv+"; default: none)")
	f.StringVar(&cfg.Node, "node-id", "", "name of this node, as the CO knows it (default: the host's name)")
	f.StringVar(&cfg.State, "state", nodeState, "directory for records of what is attached")
	f.StringVar(&cfg.ProgramGroup, "program-cgroup", "", "control group (v2) outside of this process' container, in which programs that touch devices run: one that hangs there does not keep the container from being started anew (default: none)")
	f.StringVar(&cfg.RegistrationDir, "registration-dir", "", "kubelet's directory for plugins (default: register nowhere)")
	f.StringVar(&cfg.KubeletEndpoint, "kubelet-endpoint", "", "path of the CSI socket as kubelet sees it (default: that of --endpoint)")
	f.Var(indexes, "nbd-range", "NBD devices to use: FIRST-LAST (default 64-1023)")
	f.DurationVar(&cfg.DeadTimeout, "dead-timeout", 0, "how long I/O waits for a store that is away before it fails (default 168h)")
	f.Int64Var(&cfg.KeyLimit, "tls-key-limit", 0, "bytes after which an encrypted connection is replaced (default: a quarter of what its key is good for)")
	f.DurationVar(&cfg.Stop, "stop-timeout", 0, "how long an orderly stop may take (default 30s)")
	webFlags(f, &cfg.Web)
	eventsFlag(f, &cfg.Events)
	_ = cmd.MarkFlagDirname("state")
	_ = cmd.MarkFlagDirname("registration-dir")
}

// eventsFlag is of processes that know what happens to volumes.
func eventsFlag(f *pflag.FlagSet, events *app.KubeEvents) {
	*events = app.KubeEventsAuto
	f.Var(events, "kube-events", "tell users of their volumes by events in the cluster: on, off, or auto for on in a pod")
}

func finishNode(cfg *app.NodeConfig, indexes indexRange) error {
	cfg.Version, cfg.FirstIndex, cfg.LastIndex = version, indexes.first, indexes.last
	return orHostname(&cfg.Node)
}

// orHostname makes the name of a node that was not given that of this host.
func orHostname(node *string) error {
	if *node != "" {
		return nil
	}
	name, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name of this host: %w", err)
	}
	*node = name
	return nil
}

func poolsFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "pools", "", "file that describes the pools")
	_ = cmd.MarkFlagFilename("pools", "yaml", "yml")
}

// indexRange is the --nbd-range flag.
type indexRange struct{ first, last int }

var _ pflag.Value = (*indexRange)(nil)

func (r *indexRange) String() string {
	if r.last == 0 {
		return ""
	}
	return fmt.Sprintf("%d-%d", r.first, r.last)
}

// Set implements pflag.Value.
func (r *indexRange) Set(s string) error {
	first, last, ok := strings.Cut(s, "-")
	a, err1 := strconv.Atoi(first)
	b, err2 := strconv.Atoi(last)
	if !ok || err1 != nil || err2 != nil || b < a {
		return fmt.Errorf("want FIRST-LAST, for example 64-1023")
	}
	r.first, r.last = a, b
	return nil
}

// Type implements pflag.Value.
func (r *indexRange) Type() string { return "range" }
