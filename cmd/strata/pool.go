package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/cmd/strata/internal/size"
	"github.com/strata-csi/strata/cmd/strata/internal/table"
	"github.com/strata-csi/strata/pkg/app"
	"github.com/strata-csi/strata/pkg/store"
)

func (c *cli) poolCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pool",
		Short: "List the stores of the pools; give one up, take one back",
		Args:  subcommandOnly,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.poolLsCmd(),
		c.poolChange("forget", "Give a store up that will never come back",
			"Give a store up that will never come back. Until then, lists and deletes wait for it,\n"+
				"because what is on it still exists. What was on it is lost to the pool.", app.ForgetStore),
		c.poolChange("admit", "Take a store into its pool that was forgotten or refused",
			"Take a store into its pool that was forgotten, or that was refused because it answers\n"+
				"under the address of another one.", app.AdmitStore))
	return cmd
}

func (c *cli) poolLsCmd() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "ls --pools FILE", Short: "List the stores of the pools and whether they answer",
		Args: args(0, 0, ""), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := wants(cmd, "pools"); err != nil {
				return err
			}
			all, err := app.PoolMembers(cmd.Context(), file)
			if err != nil {
				return err
			}
			t := table.New("POOL", "STORE", "NODE", "ADDRESS", "STATE", ">FREE", "REASON")
			for _, m := range all {
				free := ""
				if m.Free > 0 {
					free = size.Human(m.Free)
				}
				t.Row(m.Pool, m.UUID, m.Node, m.Address, m.State, free, m.Reason)
			}
			return c.table(list(all), t)
		},
	}
	poolsFlag(cmd, &file)
	return cmd
}

func (c *cli) poolChange(verb, short, long string, change func(ctx context.Context, file, pool, uuid string) error) *cobra.Command {
	var file, pool string
	cmd := &cobra.Command{
		Use: verb + " STORE-UUID --pools FILE", Short: short, Long: long,
		Args: args(1, 1, "the UUID of a store"), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := wants(cmd, "pools"); err != nil {
				return err
			}
			err := change(cmd.Context(), file, pool, args[0])
			if errors.Is(err, store.ErrInUse) {
				return advise(err, "end that store process first, and see that nobody needs what is on it")
			}
			return err
		},
	}
	poolsFlag(cmd, &file)
	cmd.Flags().StringVar(&pool, "pool", "", "pool of the store (default: the default pool)")
	return cmd
}
