package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// CreatePool makes a pool of eight placement groups and initialises it for rbd. It
// returns when the pool takes images.
func (c *Cluster) CreatePool(ctx context.Context, name string) error {
	for _, line := range [][]string{
		{"ceph", "osd", "pool", "create", name, "8", "8", "replicated", "--size", "1"},
		{"ceph", "osd", "pool", "application", "enable", name, "rbd"},
		{"rbd", "pool", "init", name},
	} {
		if _, err := c.Run(ctx, line[0], line[1:]...); err != nil {
			return fmt.Errorf("create pool %s: %w", name, err)
		}
	}
	return nil
}

// DeletePool deletes a pool with all that is in it.
func (c *Cluster) DeletePool(ctx context.Context, name string) error {
	_, err := c.Run(ctx, "ceph", "osd", "pool", "delete", name, name, "--yes-i-really-really-mean-it")
	if err != nil {
		return fmt.Errorf("delete pool %s: %w", name, err)
	}
	return nil
}

// AddUser makes the user client.<name> with capabilities, pairs such as "mon", "profile
// rbd", and returns the path of a keyring that holds this user's key alone.
func (c *Cluster) AddUser(ctx context.Context, name string, caps ...string) (string, error) {
	out, err := c.Run(ctx, "ceph", append([]string{"auth", "get-or-create", "client." + name}, caps...)...)
	if err != nil {
		return "", fmt.Errorf("add user %s: %w", name, err)
	}
	path := filepath.Join(c.dir, "client."+name+".keyring")
	if err := os.WriteFile(path, out, 0o600); err != nil {
		return "", fmt.Errorf("add user %s: %w", name, err)
	}
	return path, nil
}

// Ready returns when the OSD serves every placement group of every pool, or with an
// error when ctx ends or a daemon has ended by itself.
func (c *Cluster) Ready(ctx context.Context) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := c.serves(ctx)
		if err == nil {
			return nil
		}
		if gone := c.Alive(); gone != nil {
			return gone
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for ceph: %w", errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

// serves lists every pool, which asks each of its placement groups.
func (c *Cluster) serves(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, err := c.Run(ctx, "ceph", "osd", "stat", "--format", "json")
	if err != nil {
		return err
	}
	var stat struct {
		Up int `json:"num_up_osds"`
	}
	if err := json.Unmarshal(out, &stat); err != nil {
		return fmt.Errorf("read ceph osd stat: %w", err)
	}
	if stat.Up == 0 {
		return errors.New("the OSD is not up yet")
	}
	pools, err := c.pools(ctx)
	if err != nil {
		return err
	}
	for _, p := range pools {
		if _, err := c.Run(ctx, "rados", "-p", p, "ls"); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) pools(ctx context.Context) ([]string, error) {
	out, err := c.Run(ctx, "ceph", "osd", "pool", "ls", "--format", "json")
	if err != nil {
		return nil, err
	}
	var pools []string
	if err := json.Unmarshal(out, &pools); err != nil {
		return nil, fmt.Errorf("read list of pools: %w", err)
	}
	return pools, nil
}

// Rbd runs the command rbd and returns what it printed.
func (c *Cluster) Rbd(ctx context.Context, args ...string) ([]byte, error) {
	return c.Run(ctx, "rbd", args...)
}

// RbdJSON runs the command rbd and decodes what it printed into v.
func (c *Cluster) RbdJSON(ctx context.Context, v any, args ...string) error {
	out, err := c.Run(ctx, "rbd", append(args, "--format", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, v); err != nil {
		return fmt.Errorf("read rbd %v: %w: %q", args, err, out)
	}
	return nil
}
