package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/pkg/app"
	"github.com/strata-csi/strata/pkg/store"
)

func (c *cli) upgradeFormatCmd() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:   "upgrade-format --data DIR",
		Short: "Bring a data directory to the format of this program",
		Long: "Bring a data directory that is not served to the format on disk that this program works\n" +
			"with, and tell which it was. Nothing else ever changes the format, so until then the\n" +
			"version of strata that served the directory before can do so again; afterwards it can\n" +
			"not. A directory of a newer format is refused and left as it is.",
		Example:           "  strata upgrade-format --data /var/lib/strata",
		Args:              args(0, 0, ""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if data == "" {
				return usagef(cmd, "%s wants --data", cmd.CommandPath())
			}
			f, err := app.UpgradeFormat(data)
			if errors.Is(err, store.ErrUnsupported) {
				return advise(err, "nothing was changed; this is strata %s", version)
			}
			if err != nil {
				return adviseStore(err)
			}
			return c.show(f, func() error {
				text := fmt.Sprintf("%s has format %d, which this program works with: nothing to do\n", data, f.Version)
				if f.Version != f.Current {
					text = fmt.Sprintf("%s has format %d now; it was %d\n", data, f.Current, f.Version)
				}
				_, err := fmt.Fprint(c.out, text)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "data directory")
	_ = cmd.MarkFlagDirname("data")
	return cmd
}
