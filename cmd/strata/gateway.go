package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/pkg/app"
	"github.com/strata-csi/strata/pkg/store"
)

// Backends of strata store.
const (
	backendEmbedded = "layered"
	backendCeph     = "rbd"
)

// gatewayFlags are those of a store process that serves a pool of a Ceph cluster.
type gatewayFlags struct {
	backend, pools, pool, member string
}

func (g *gatewayFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&g.backend, "backend", backendEmbedded, "serve the embedded engine (layered) or a pool of a Ceph cluster (rbd)")
	poolsFlag(cmd, &g.pools)
	f.StringVar(&g.pool, "pool", "", "with --backend rbd: name of the pool in the pools file")
	f.StringVar(&g.member, "member", "", "with --backend rbd: name of this gateway for ever, as that of the node; one that starts makes sure that an earlier one of its name is dead (default: the host's name and the data directory)")
	_ = cmd.RegisterFlagCompletionFunc("backend", cobra.FixedCompletions([]string{backendEmbedded, backendCeph}, cobra.ShellCompDirectiveNoFileComp))
}

// apply moves what was asked for into the configuration. Flags of the other backend are
// refused, so that nobody thinks they hold.
func (g *gatewayFlags) apply(cmd *cobra.Command, cfg *app.Config) error {
	ceph, err := choice(cmd, "backend", g.backend, backendEmbedded, backendCeph)
	if err != nil {
		return err
	}
	other := []string{"pools", "pool", "member"}
	if ceph {
		other = []string{"copy-rate", "alloc-unit", "scrub-every", "scrub-rate", "ack", "io"}
	}
	for _, flag := range other {
		if cmd.Flags().Changed(flag) {
			return usagef(cmd, "--%s is not for --backend %s", flag, g.backend)
		}
	}
	if ceph && (g.pools == "" || g.pool == "") {
		return usagef(cmd, "--backend %s wants --pools and --pool", g.backend)
	}
	cfg.Gateway = app.Gateway{PoolsFile: g.pools, Pool: g.pool, Member: g.member}
	return nil
}

// adviseGateway says what to do about a gateway that does not start.
func adviseGateway(err error) error {
	for _, h := range []hint{
		{store.ErrUnsupported, "build one that has it: make build-ceph"},
		{store.ErrInUse, "stop that process first, or give this gateway another directory"},
		{store.ErrUnavailable, "the cluster is asked anew at each start"},
		{store.ErrConflict, "leave --init out to serve what exists"},
		{store.ErrNotFound, "check cephPool, namespace and dataPool in the pools file; only a new installation needs --init"},
		{store.ErrInvalid, "the pools file says which cluster is asked, and as whom; see also: strata store --help"},
	} {
		if errors.Is(err, h.is) {
			return advise(err, "%s", h.text)
		}
	}
	return err
}
