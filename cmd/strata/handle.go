package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/pkg/app"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

// poolNote is the note of a store that names the pool which it belongs to.
const poolNote = "pool"

func (c *cli) handleCmd() *cobra.Command {
	var pool string
	cmd := &cobra.Command{
		Use: "handle IMAGE[@SNAPSHOT]", Short: "Print the id by which Kubernetes knows an image or snapshot",
		Long: "Print the id by which the CSI controller, and so Kubernetes, knows an image or a snapshot:\n" +
			"the volumeHandle of a PersistentVolume that is made by hand, or the snapshotHandle of a\n" +
			"VolumeSnapshotContent.",
		Example: "  strata handle data",
	}
	cmd.Flags().StringVar(&pool, "pool", "", "name of the store's pool in the pools file (default: the one whose controller has claimed the store)")
	return c.aboutObject(cmd, func(ctx context.Context, s *storeapi.Client, i store.Info) error {
		status, err := s.Status(ctx)
		if err != nil {
			return err
		}
		if pool == "" {
			if pool, err = s.Note(ctx, poolNote); errors.Is(err, store.ErrNotFound) {
				return advise(fmt.Errorf("no controller has claimed this store for a pool yet: %w", store.ErrNotFound), "name the pool with --pool, as in the pools file")
			} else if err != nil {
				return err
			}
		}
		handle, err := app.VolumeHandle(pool, i, status.UUID)
		if err != nil {
			return err
		}
		return c.show(struct {
			Handle string `json:"handle"`
		}{handle}, func() error {
			_, err := fmt.Fprintln(c.out, handle)
			return err
		})
	})
}
