package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/cmd/strata/internal/size"
	"github.com/strata-csi/strata/pkg/app"
	"github.com/strata-csi/strata/pkg/store"
)

func (c *cli) storeCmd() *cobra.Command {
	var cfg app.Config
	var engine engineFlags
	var gateway gatewayFlags
	var logs logging
	cmd := &cobra.Command{
		Use:   "store --data DIR",
		Short: "Serve a data directory",
		Long: "Serve a data directory: NBD on DIR/nbd.sock and the store API on DIR/api.sock, and on\n" +
			"further addresses if asked. TCP beyond this machine wants certificates, which strata\n" +
			"certs makes, or --insecure. --init makes the directory a store, once; without it, a\n" +
			"directory that is no store is refused. Where nobody can say it once, --init-once does,\n" +
			"with a record on another disk: a directory that is empty although there is a record\n" +
			"lacks its disk. SIGTERM and SIGINT end it in order, a second one at once.\n\n" +
			"With --backend rbd it is a gateway: it serves, in the same way, a pool of a Ceph\n" +
			"cluster that the pools file describes; DIR holds its sockets and its lock. --init\n" +
			"makes the pool one of strata's, once.",
		Example: "  strata store --data /var/lib/strata --init\n" +
			"  strata store --data /var/lib/strata --listen tcp://0.0.0.0:10809\n" +
			"  strata store --backend rbd --data /run/strata/fast --pools /etc/strata/pools.yaml --pool fast",
		Args:              args(0, 0, ""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.Data == "" {
				return usagef(cmd, "%s wants --data", cmd.CommandPath())
			}
			cfg.Version, cfg.Reexec = version, true
			cfg.TLS, cfg.Insecure = c.tls, c.insecure
			if err := errors.Join(engine.apply(cmd, &cfg), gateway.apply(cmd, &cfg), orHostname(&cfg.Node)); err != nil {
				return err
			}
			cfg.Ready = func(s app.Serving) {
				if cfg.Init {
					fmt.Fprintf(c.out, "made store %s in %s\n", s.UUID, cfg.Data)
				}
			}
			ctx, err := logs.context(cmd, c.err)
			if err != nil {
				return err
			}
			err = app.Store(ctx, cfg)
			if gateway.backend == backendCeph {
				return adviseGateway(err)
			}
			return adviseStore(err)
		},
	}
	gateway.add(cmd)
	engine.add(cmd)
	logs.flags(cmd)
	storeFlags(cmd, &cfg)
	return cmd
}

// storeFlags are those of every store process, whatever its backend.
func storeFlags(cmd *cobra.Command, cfg *app.Config) {
	f := cmd.Flags()
	f.StringVar(&cfg.Data, "data", "", "data directory")
	f.StringVar(&cfg.Node, "node-name", "", "node it runs on, as the CO knows it: volumes for pods of that node are made here (default: the host's name)")
	f.BoolVar(&cfg.Init, "init", false, "make the data directory a new store first")
	f.StringVar(&cfg.InitOnce, "init-once", "", "make it a new store unless this file, on another disk, records that it has been one")
	f.StringArrayVar(&cfg.NBD, "listen", nil, "further address for NBD: tcp://HOST:PORT or unix:PATH (repeatable)")
	f.StringArrayVar(&cfg.API, "api-listen", nil, "further address for the store API: tcp://HOST:PORT or unix:PATH (repeatable)")
	f.BoolVar(&cfg.OpenTCP, "open-tcp", false, "let anyone who reaches the TCP addresses list and open images by name")
	f.BoolVar(&cfg.AllowUnsafe, "allow-unsafe", false, "start without CAP_SYS_RESOURCE: kernel NBD devices on this machine could deadlock")
	f.IntVar(&cfg.Policy.Soft, "soft-depth", 0, "default clone depth above which a flatten is queued (0: 8)")
	f.IntVar(&cfg.Policy.Hard, "hard-depth", 0, "default clone depth above which clones are refused (0: 64)")
	webFlags(f, &cfg.Web)
	f.DurationVar(&cfg.Stop, "stop-timeout", 30*time.Second, "how long an orderly stop may take")
	f.DurationVar(&cfg.ReturnTimeout, "return-timeout", 0, "how long /readyz waits after the start for nodes that had volumes to come back (default: not at all)")
	_ = cmd.MarkFlagDirname("data")
}

// engineFlags are those of the embedded engine.
type engineFlags struct {
	ack, io                   string
	copyRate, unit, scrubRate size.Value
	scrubEvery                time.Duration
}

func (e *engineFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Var(&e.copyRate, "copy-rate", "most bytes a second that background work copies (default: no limit)")
	f.Var(&e.unit, "alloc-unit", "space taken at once where an image is first written, 4K to 1M; larger units mean files in fewer pieces (default 4K)")
	f.DurationVar(&e.scrubEvery, "scrub-every", 0, "how often all data is read and compared with its checksums, as 168h (default: when strata scrub asks)")
	f.Var(&e.scrubRate, "scrub-rate", "most bytes a second that a scrub reads (default: no limit)")
	f.StringVar(&e.ack, "ack", "buffered", "answer writes from the page cache (buffered), or once on disk, so that sessions survive power failure (stable)")
	f.StringVar(&e.io, "io", "buffered", "keep images in the page cache (buffered) or out of it (direct)")
	_ = cmd.RegisterFlagCompletionFunc("ack", cobra.FixedCompletions([]string{"buffered", "stable"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("io", cobra.FixedCompletions([]string{"buffered", "direct"}, cobra.ShellCompDirectiveNoFileComp))
}

func (e *engineFlags) apply(cmd *cobra.Command, cfg *app.Config) (err error) {
	if cfg.StableAck, err = choice(cmd, "ack", e.ack, "buffered", "stable"); err != nil {
		return err
	}
	if cfg.DirectIO, err = choice(cmd, "io", e.io, "buffered", "direct"); err != nil {
		return err
	}
	cfg.CopyRate, cfg.AllocUnit = e.copyRate.Bytes, e.unit.Bytes
	cfg.ScrubEvery, cfg.ScrubRate = e.scrubEvery, e.scrubRate.Bytes
	return nil
}

// choice tells whether a flag has the second of its two values.
func choice(cmd *cobra.Command, flag, got, first, second string) (bool, error) {
	if got != first && got != second {
		return false, usagef(cmd, "--%s is %s or %s, not %q", flag, first, second, got)
	}
	return got == second, nil
}

// adviseStore says what to do about a store that does not start: the general hints are
// about images.
func adviseStore(err error) error {
	for _, h := range []hint{
		{store.ErrInUse, "stop that process first, or serve another directory"},
		{store.ErrConflict, "leave --init out to serve a store that exists"},
		{store.ErrNotFound, "check the path and that its disk is mounted; only a new store needs --init"},
		{store.ErrCorrupt, "keep a copy of the directory before you try anything"},
		{store.ErrInvalid, "see: strata store --help"},
	} {
		if errors.Is(err, h.is) {
			return advise(err, "%s", h.text)
		}
	}
	return err
}
