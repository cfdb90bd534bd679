package cluster

import (
	"context"

	"github.com/strata-csi/strata/test/e2e/process"
)

// Cut takes a guest off the network while it runs on.
func (c *Cluster) Cut(ctx context.Context, node string) error {
	return c.setLink(ctx, node, "nomaster")
}

// Mend puts a guest that was cut off on the network again.
func (c *Cluster) Mend(ctx context.Context, node string) error {
	return c.setLink(ctx, node, "master", bridge)
}

func (c *Cluster) setLink(ctx context.Context, node string, change ...string) error {
	g, err := c.guest(node)
	if err != nil {
		return err
	}
	_, err = process.Run(ctx, append([]string{"ip", "link", "set", tap(g.number)}, change...)...)
	return err
}
