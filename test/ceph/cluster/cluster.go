package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Object stores of the OSD.
const (
	MemStore  = "memstore"
	BlueStore = "bluestore"
)

// ErrMissing says that programs of Ceph are not installed here.
var ErrMissing = errors.New("not installed; hack/ceph.sh installs it")

// Options of a cluster; the zero value of each has a default.
type Options struct {
	// Dir is the cluster's folder, which must be missing or empty and is kept. If it
	// is "", one below the folder of temporary files is made, and removed by Close. At
	// most 70 bytes: paths of sockets in it must fit the kernel's limit.
	Dir string
	// ObjectStore is MemStore (the default) or BlueStore.
	ObjectStore string
	// Bytes is the OSD's capacity, 4 GiB if 0: in memory or in a sparse file.
	Bytes int64
	// Pools are made, and initialised for rbd; one named rbd if nil.
	Pools []string
	// Extra is put into the section [global] of ceph.conf, lines of "key = value\n".
	Extra string
}

// Cluster is a running cluster. Safe for concurrent use, but for Close.
type Cluster struct {
	opts     Options
	dir      string
	own      bool // dir is removed by Close
	fsid     string
	addr     string
	mon, osd *daemon
}

// Missing lists the programs that Start needs and that are not installed.
func Missing() []string {
	var missing []string
	for _, p := range []string{"ceph-mon", "ceph-osd", "ceph-authtool", "monmaptool", "ceph", "rados", "rbd"} {
		if _, err := exec.LookPath(p); err != nil {
			missing = append(missing, p)
		}
	}
	return missing
}

// Start starts a cluster and returns when its pools take images, some 5 to 15 s later.
// ctx bounds the start alone. On an error nothing keeps running. ErrMissing if Ceph is
// not installed.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	if missing := Missing(); len(missing) > 0 {
		return nil, fmt.Errorf("start ceph: %s: %w", strings.Join(missing, ", "), ErrMissing)
	}
	c, err := prepare(opts)
	if err != nil {
		return nil, fmt.Errorf("start ceph: %w", err)
	}
	if err := c.bringUp(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start ceph in %s: %w", c.dir, err), c.Close())
	}
	return c, nil
}

func prepare(opts Options) (*Cluster, error) {
	if opts.ObjectStore == "" {
		opts.ObjectStore = MemStore
	}
	if opts.Bytes == 0 {
		opts.Bytes = 4 << 30
	}
	if opts.Pools == nil {
		opts.Pools = []string{"rbd"}
	}
	c := &Cluster{opts: opts, dir: opts.Dir, fsid: newUUID()}
	var err error
	if c.addr, err = freeAddress(); err != nil {
		return nil, err
	}
	if c.dir == "" {
		c.own = true
		c.dir, err = os.MkdirTemp("", "ceph-")
	} else {
		err = os.MkdirAll(c.dir, 0o700)
	}
	if err == nil {
		c.dir, err = filepath.Abs(c.dir)
	}
	if err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	if len(c.dir) > 70 {
		return nil, fmt.Errorf("folder %s: sockets in it would have too long names: %w", c.dir, syscall.ENAMETOOLONG)
	}
	c.mon = c.daemon(Mon, "ceph-mon", "a")
	c.osd = c.daemon(OSD, "ceph-osd", "0")
	return c, c.writeConf()
}

func (c *Cluster) daemon(name Daemon, program, id string) *daemon {
	return &daemon{
		name: name, dir: c.dir, env: c.Env(),
		line: []string{program, "-f", "-i", id, "-c", c.Conf()},
	}
}

// bringUp makes what the daemons start from, starts them, and makes the pools. The
// monitor takes all keys over from the keyring when its own store is made.
func (c *Cluster) bringUp(ctx context.Context) error {
	monmap := filepath.Join(c.dir, "monmap")
	osd := newUUID()
	all := []string{"--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"}
	for _, line := range [][]string{
		{"ceph-authtool", "--create-keyring", c.Keyring(), "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"},
		append([]string{"ceph-authtool", c.Keyring(), "--gen-key", "-n", "client.admin"}, all...),
		append([]string{"ceph-authtool", c.Keyring(), "--gen-key", "-n", "osd.0"}, all...),
		{"monmaptool", "--create", "--clobber", "--addv", "a", "[v2:" + c.addr + "]", "--fsid", c.fsid, monmap},
		{"ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", c.Keyring()},
	} {
		if _, err := c.Run(ctx, line[0], line[1:]...); err != nil {
			return err
		}
	}
	if err := c.mon.start(); err != nil {
		return err
	}
	if _, err := c.Run(ctx, "ceph", "osd", "new", osd, "0"); err != nil {
		return err
	}
	if _, err := c.Run(ctx, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd, "--no-mon-config"); err != nil {
		return err
	}
	if err := c.osd.start(); err != nil {
		return err
	}
	for _, p := range c.opts.Pools {
		if err := c.CreatePool(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the daemons, hard, and removes the folder if Start made it.
func (c *Cluster) Close() error {
	err := errors.Join(c.osd.kill(), c.mon.kill())
	if c.own {
		err = errors.Join(err, os.RemoveAll(c.dir))
	}
	if err != nil {
		return fmt.Errorf("close ceph: %w", err)
	}
	return nil
}

// Dir is the cluster's folder, Conf its configuration, Keyring the file with the key of
// client.admin, FSID its identity, and Address where the monitor listens (msgr2).
func (c *Cluster) Dir() string { return c.dir }

// Conf is the path of ceph.conf.
func (c *Cluster) Conf() string { return filepath.Join(c.dir, "ceph.conf") }

// Keyring is the path of the keyring with every key, that of client.admin too.
func (c *Cluster) Keyring() string { return filepath.Join(c.dir, "keyring") }

// FSID is the cluster's identity.
func (c *Cluster) FSID() string { return c.fsid }

// Address is where the monitor listens, host:port, for msgr2 alone.
func (c *Cluster) Address() string { return c.addr }

// Env is the environment for programs that shall speak with this cluster.
func (c *Cluster) Env() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "CEPH_") {
			env = append(env, e)
		}
	}
	return append(env, "CEPH_CONF="+c.Conf())
}

// Run runs a program against the cluster and returns its standard output. The error
// holds what it wrote to its standard error, or that a daemon has ended by itself.
func (c *Cluster) Run(ctx context.Context, program string, args ...string) ([]byte, error) {
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = c.Env(), &stdout, &stderr
	// Python's ceph has threads of its own that may hold on to the pipes.
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Run(); err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", err, ctx.Err())
		}
		return []byte(stdout.String()), errors.Join(err, c.Alive())
	}
	return []byte(stdout.String()), nil
}

// Alive is an error, with the end of its log, if a daemon has ended by itself.
func (c *Cluster) Alive() error { return errors.Join(c.mon.alive(), c.osd.alive()) }

// PID is the process id of a daemon that was started.
func (c *Cluster) PID(d Daemon) int { return c.pick(d).pid() }

// Log is the end of a daemon's log.
func (c *Cluster) Log(d Daemon) string { return c.pick(d).tail() }

func (c *Cluster) pick(d Daemon) *daemon {
	if d == Mon {
		return c.mon
	}
	return c.osd
}

// Kill ends a daemon as a crash would. An OSD on MemStore loses all its data.
func (c *Cluster) Kill(d Daemon) error { return c.pick(d).kill() }

// Stop ends a daemon in order; an OSD on MemStore saves its data.
func (c *Cluster) Stop(ctx context.Context, d Daemon) error { return c.pick(d).stop(ctx) }

// Begin starts a daemon that was ended, and does not wait until it serves; Ready does.
func (c *Cluster) Begin(d Daemon) error { return c.pick(d).start() }

// Freeze stops a daemon from running without ending it: connections stay, no request is
// answered. Thaw lets it go on.
func (c *Cluster) Freeze(d Daemon) error {
	_, err := c.pick(d).signal(syscall.SIGSTOP, false)
	return err
}

// Thaw lets a frozen daemon run on.
func (c *Cluster) Thaw(d Daemon) error {
	_, err := c.pick(d).signal(syscall.SIGCONT, false)
	return err
}
