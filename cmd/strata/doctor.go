package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/pkg/app"
	"github.com/strata-csi/strata/pkg/doctor"
	"github.com/strata-csi/strata/pkg/store"
)

// errUnfit is the end of an examination that found something bad.
var errUnfit = errors.New("this host lacks what strata needs")

func (c *cli) doctorCmd() *cobra.Command {
	var host doctor.Host
	var pools string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Examine this host for what strata needs, and say what to do",
		Long: "Examine this host for what strata needs: kernel, nbd module, rights, programs, mount\n" +
			"propagation, the disk of the data directory, the clock, and in a cluster the snapshot\n" +
			"API. With --pools, the Ceph clusters that the file names, too. Nothing is changed. Run it where strata node and strata store are to run. Exit\n" +
			"code 1 means that something needed is missing.",
		Example:           "  strata doctor\n  strata doctor --data /var/lib/strata --format json",
		Args:              args(0, 0, ""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			host.LookPath, host.Clock = exec.LookPath, doctor.Synchronised
			cluster, err := doctor.InCluster(c.env)
			if err != nil {
				return err
			}
			host.Cluster, host.Attach = cluster, app.AttachSupported
			findings := host.Examine(cmd.Context())
			clusters, err := examinePools(cmd.Context(), pools)
			if err != nil {
				return err
			}
			findings = append(findings, clusters...)
			if err := c.show(findings, func() error { return c.printFindings(findings) }); err != nil {
				return err
			}
			if doctor.Worst(findings) == doctor.Bad {
				return errUnfit
			}
			return nil
		},
	}
	f := cmd.Flags()
	poolsFlag(cmd, &pools)
	f.StringVar(&host.DataDir, "data", "", "data directory of a store, to examine its disk")
	f.StringVar(&host.KubeletDir, "kubelet-dir", "/var/lib/kubelet", "where kubelet keeps volumes")
	_ = cmd.MarkFlagDirname("data")
	_ = cmd.MarkFlagDirname("kubelet-dir")
	return cmd
}

// examinePools asks the clusters of a pools file, if there is one.
func examinePools(ctx context.Context, file string) ([]doctor.Finding, error) {
	if file == "" {
		return nil, nil
	}
	pools, err := app.ProbePools(ctx, file)
	if err != nil {
		return nil, advise(err, "correct the pools file")
	}
	var found []doctor.Finding
	for _, p := range pools {
		f := doctor.Finding{Name: "pool " + p.Pool, Level: doctor.Good, Seen: p.Seen}
		if p.Err != nil {
			f.Level, f.Seen, f.Do = doctor.Bad, p.Err.Error(), hintFor(adviseGateway(p.Err))
		}
		if errors.Is(p.Err, store.ErrUnsupported) { // other hosts may have a build that can
			f.Level = doctor.Unknown
		}
		found = append(found, f)
	}
	return found, nil
}

func (c *cli) printFindings(findings []doctor.Finding) error {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Level, f.Name, f.Seen)
		if f.Do != "" {
			fmt.Fprintf(w, "\t\t→ %s\n", f.Do)
		}
	}
	return w.Flush()
}
