//go:build ceph

package rbd

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/ceph/go-ceph/rados"
	librbd "github.com/ceph/go-ceph/rbd"

	"github.com/strata-csi/strata/pkg/store"
)

// cluster is a connection with the pool that is used through it.
type cluster struct {
	conn *rados.Conn
	io   *rados.IOContext
	// addresses are what fences this client.
	addresses string
}

// forced are settings that the semantics of a store rest on.
func forced() [][2]string {
	return [][2]string{
		{"rbd_cache", "false"},                      // an answered write survives this process
		{"rbd_persistent_cache_mode", "disabled"},   // and this machine
		{"rbd_skip_partial_discard", "false"},       // what is discarded reads zero, whatever its size
		{"rbd_move_parent_to_trash_on_remove", "0"}, // the catalogue decides what goes where
	}
}

// waits are settings with the library's default, and what is better where nobody has set
// them: a cluster without monitors is told of in seconds, not in minutes or never.
func waits() [][3]string {
	return [][3]string{{"client_mount_timeout", "300", "30"}, {"rados_mon_op_timeout", "0", "30"}}
}

// dial connects to the cluster and makes sure that nothing undoes what is forced.
func dial(o Options) (*cluster, error) {
	conn, err := configure(o)
	if err != nil {
		return nil, err
	}
	for _, s := range forced() {
		if err := conn.SetConfigOption(s[0], s[1]); err != nil {
			return nil, fmt.Errorf("set %s: %w", s[0], err)
		}
	}
	for _, w := range waits() {
		if value, err := conn.GetConfigOption(w[0]); err == nil && value == w[1] {
			if err := conn.SetConfigOption(w[0], w[2]); err != nil {
				return nil, fmt.Errorf("set %s: %w", w[0], err)
			}
		}
	}
	if err := conn.Connect(); err != nil {
		return nil, fmt.Errorf("%s: connect: %w: %w", o.place(), err, store.ErrUnavailable)
	}
	c := &cluster{conn: conn}
	if err := c.use(o); err != nil {
		c.close()
		return nil, fmt.Errorf("%s: %w", o.place(), err)
	}
	return c, nil
}

func (c *cluster) use(o Options) error {
	value, err := c.conn.GetConfigOption("rbd_cache")
	if err != nil || value != "false" {
		return fmt.Errorf("rbd_cache is %q although it was turned off, %v: %w", value, err, store.ErrInvalid)
	}
	if c.io, err = c.conn.OpenIOContext(o.Pool); err != nil {
		if gone(err) {
			return fmt.Errorf("there is no such pool: %w", store.ErrNotFound)
		}
		return classify(fmt.Errorf("open the pool: %w", err))
	}
	if value, err := librbd.GetPoolMetadata(c.io, cacheKey); err == nil && value != "false" {
		return fmt.Errorf("the pool sets rbd_cache to %q, which loses answered writes: rbd config pool remove %s rbd_cache: %w", value, o.Pool, store.ErrInvalid)
	}
	c.io.SetNamespace(o.Namespace)
	if c.addresses, err = c.conn.GetAddrs(); err != nil {
		return classify(fmt.Errorf("ask for the client's address: %w", err))
	}
	return nil
}

// cacheKey is the metadata by which pools and images outweigh the client's setting.
const cacheKey = "conf_rbd_cache"

// close ends the connection; what is open must have been closed.
func (c *cluster) close() {
	if c.io != nil {
		c.io.Destroy()
	}
	c.conn.Shutdown()
}

// fenceFor is how long a fenced client stays on the blocklist, in seconds. The monitor
// takes a number with a point only.
const fenceFor = "86400.0"

// fence makes sure that nothing of the clients takes effect any more.
func (c *cluster) fence(addresses string) error {
	for _, a := range strings.Split(strings.Trim(addresses, "[]"), ",") {
		if a == "" {
			continue
		}
		cmd, err := json.Marshal(map[string]any{"prefix": "osd blocklist", "blocklistop": "add", "addr": a, "expire": json.RawMessage(fenceFor)})
		if err != nil {
			return fmt.Errorf("fence %s: %w", a, err)
		}
		if _, said, err := c.conn.MonCommand(cmd); err != nil {
			return classify(fmt.Errorf("fence %s (%s): %w", a, said, err))
		}
	}
	if err := c.conn.WaitForLatestOSDMap(); err != nil {
		return classify(fmt.Errorf("wait until %s is fenced: %w", addresses, err))
	}
	return nil
}
