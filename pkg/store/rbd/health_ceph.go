//go:build ceph

package rbd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ceph/go-ceph/rados"
	librbd "github.com/ceph/go-ceph/rbd"
)

// answerWithin bounds each single wait for the cluster in a probe.
const answerWithin = 5 * time.Second

// errno is the number of an error that Ceph's libraries returned, 0 if it is none.
func errno(err error) syscall.Errno {
	var coded interface{ ErrorCode() int }
	if !errors.As(err, &coded) {
		return 0
	}
	return syscall.Errno(max(coded.ErrorCode(), -coded.ErrorCode()))
}

// probed is an object that nobody makes. Removing it asks an OSD whether the user may
// write, and changes nothing.
const probed = "strata.probe"

// Probe finds out whether Open could work, and if not, which part fails: the error is a
// *ProbeError. It takes a connection of its own, changes nothing, and returns
// within seconds, at the latest when the context ends. A wait that the context cut short
// goes on behind it for as long as librados takes, some seconds more.
func Probe(ctx context.Context, o Options) (Health, error) {
	o, err := o.filled()
	if err != nil {
		return Health{}, found(FaultConfig, "%v", err)
	}
	pr := &prober{o: o}
	pr.step.Store("starting")
	type result struct {
		h   Health
		err error
	}
	done := make(chan result, 1)
	begin := time.Now()
	go func() {
		h, err := pr.run(ctx)
		done <- result{h, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return Health{}, fmt.Errorf("%s: %w", o.place(), r.err)
		}
		return r.h, nil
	case <-ctx.Done():
		return Health{}, fmt.Errorf("%s: %w", o.place(),
			found(FaultCluster, "no answer within %v, while %s (%v)", time.Since(begin).Round(time.Millisecond), pr.step.Load(), ctx.Err()))
	}
}

// place is the pool as rbd writes it, and who asks for it.
func (o Options) place() string {
	pool := o.Pool
	if o.Namespace != "" {
		pool += "/" + o.Namespace
	}
	return fmt.Sprintf("ceph pool %s as client.%s", pool, o.User)
}

// prober is one probe.
type prober struct {
	o     Options
	conn  *rados.Conn
	asked string       // the pool that is asked
	step  atomic.Value // string: what is under way
}

func (pr *prober) run(ctx context.Context) (h Health, err error) {
	if err := pr.o.files(); err != nil {
		return h, err
	}
	begin := time.Now()
	if err := pr.connect(ctx); err != nil {
		return h, err
	}
	defer pr.conn.Shutdown()
	h.Connect = time.Since(begin)
	if h.FSID, err = pr.conn.GetFSID(); err != nil {
		return h, pr.said("asking for the cluster's identity", err)
	}
	if h.PoolID, err = pr.pool(FaultPool, pr.o.Pool); err != nil {
		return h, err
	}
	begin = time.Now()
	if err := pr.use(pr.o.Pool, true); err != nil {
		return h, err
	}
	h.Request = time.Since(begin)
	if pr.o.DataPool == "" {
		return h, nil
	}
	if h.DataPoolID, err = pr.pool(FaultDataPool, pr.o.DataPool); err != nil {
		return h, err
	}
	return h, pr.use(pr.o.DataPool, false)
}

// configure prepares a connection: whom to ask and as whom. Without a configuration
// file those of the library's default places are read, but for one who names monitors.
func configure(o Options) (*rados.Conn, error) {
	conn, err := rados.NewConnWithUser(o.User)
	if err != nil {
		return nil, fmt.Errorf("prepare a connection: %w", err)
	}
	switch {
	case o.ConfigFile != "":
		err = conn.ReadConfigFile(o.ConfigFile)
	case o.Config["mon_host"] == "":
		err = conn.ReadDefaultConfigFile()
	}
	if err != nil {
		return nil, found(FaultConfig, "the configuration file %s is refused: %v", cmp.Or(o.ConfigFile, "in Ceph's default place"), err)
	}
	for name, value := range o.Config {
		if err := conn.SetConfigOption(name, value); err != nil {
			return nil, found(FaultConfig, "the setting %s is refused: %v", name, err) // its value may be a key
		}
	}
	return conn, nil
}

func (pr *prober) connect(ctx context.Context) error {
	pr.step.Store("connecting to the monitors")
	conn, err := configure(pr.o)
	if err != nil {
		return err
	}
	within := strconv.Itoa(int(answerWithin / time.Second))
	for _, o := range [][2]string{
		{"client_mount_timeout", within}, {"rados_mon_op_timeout", within}, {"rados_osd_op_timeout", within},
		{"log_to_stderr", "false"}, {"err_to_stderr", "false"}, {"log_file", ""}, {"admin_socket", ""},
	} {
		if err := conn.SetConfigOption(o[0], o[1]); err != nil {
			return fmt.Errorf("set %s: %w", o[0], err)
		}
	}
	monitors, err := conn.GetConfigOption("mon_host")
	if err != nil {
		return fmt.Errorf("read mon_host: %w", err)
	}
	if err := conn.Connect(); err != nil {
		return pr.refused(ctx, monitors, err)
	}
	pr.conn = conn
	return nil
}

// refused says why there is no connection.
func (pr *prober) refused(ctx context.Context, monitors string, err error) error {
	switch errno(err) {
	case syscall.EACCES, syscall.EPERM:
		return found(FaultCredentials, "the cluster does not accept client.%s with this key (%v); see: ceph auth get client.%s", pr.o.User, err, pr.o.User)
	case syscall.ENOENT, syscall.EINVAL, syscall.EKEYREJECTED:
		if monitorAddresses(monitors) == nil {
			return found(FaultConfig, "%s", explainSilence(ctx, monitors))
		}
		return found(FaultCredentials, "no usable key of client.%s is found (%v); name its keyring", pr.o.User, err)
	}
	return found(FaultCluster, "no monitor has answered within %v: %s (%v)", answerWithin, explainSilence(ctx, monitors), err)
}

// pool looks a pool up.
func (pr *prober) pool(f Fault, name string) (int64, error) {
	pr.step.Store("looking up pool " + name)
	id, err := pr.conn.GetPoolByName(name)
	if err == nil {
		return id, nil
	}
	if errno(err) != syscall.ENOENT {
		return 0, pr.said("looking up pool "+name, err)
	}
	has := "none"
	if names, err := pr.conn.ListPools(); err == nil && len(names) > 0 {
		slices.Sort(names)
		has = strings.Join(names[:min(len(names), 20)], ", ")
	}
	return 0, found(f, "the cluster has no pool %s; it has: %s", name, has)
}

// use asks the OSDs of a pool whether they answer, and whether this user may write
// there. Of the pool with the headers it looks for the namespace and the settings too.
func (pr *prober) use(pool string, headers bool) error {
	pr.asked = pool
	ioctx, err := pr.conn.OpenIOContext(pool)
	if err != nil {
		return pr.said("opening pool "+pool, err)
	}
	defer ioctx.Destroy()
	if headers {
		if err := pr.namespace(ioctx); err != nil {
			return err
		}
		if err := pr.cache(ioctx); err != nil {
			return err
		}
	}
	ioctx.SetNamespace(pr.o.Namespace)
	pr.step.Store("asking an OSD of pool " + pool)
	if err := ioctx.Delete(probed); err != nil && errno(err) != syscall.ENOENT {
		return pr.said("asking an OSD of pool "+pool, err)
	}
	return nil
}

func (pr *prober) namespace(ioctx *rados.IOContext) error {
	if pr.o.Namespace == "" {
		return nil
	}
	pr.step.Store("looking up namespace " + pr.o.Namespace)
	there, err := librbd.NamespaceExists(ioctx, pr.o.Namespace)
	switch {
	case errno(err) == syscall.EPERM:
		return nil // who has rights in the namespace alone may not look it up
	case err != nil && errno(err) != syscall.ENOENT:
		return pr.said("looking up namespace "+pr.o.Namespace, err)
	case !there:
		return found(FaultNamespace, "pool %s has no namespace %s; make it: rbd namespace create %s/%s", pr.o.Pool, pr.o.Namespace, pr.o.Pool, pr.o.Namespace)
	}
	return nil
}

// cache refuses settings of the pool that outweigh those of the client: behind a cache,
// an answered write is lost with the gateway.
func (pr *prober) cache(ioctx *rados.IOContext) error {
	pr.step.Store("reading the settings of pool " + pr.o.Pool)
	value, err := librbd.GetPoolMetadata(ioctx, "conf_rbd_cache")
	switch {
	case errno(err) == syscall.ENOENT || errors.Is(err, librbd.ErrNotFound) || errno(err) == syscall.EPERM:
		return nil
	case err != nil:
		return pr.said("reading the settings of pool "+pr.o.Pool, err)
	case value == "false":
		return nil
	}
	return found(FaultCache, "pool %s sets rbd_cache = %s for its images, and a cached write is lost with its gateway; see: rbd config pool remove %s rbd_cache", pr.o.Pool, value, pr.o.Pool)
}

// said classifies the error of a request by what the cluster answered.
func (pr *prober) said(doing string, err error) error {
	switch errno(err) {
	case syscall.EPERM, syscall.EACCES:
		return found(FaultRights, "%s as client.%s: %v; it needs the capabilities mon 'profile rbd' and osd 'profile rbd pool=%s'", doing, pr.o.User, err, pr.asked)
	case syscall.ETIMEDOUT:
		return found(FaultOSD, "%s: no answer within %v although the monitors answer; see: ceph osd stat", doing, answerWithin)
	}
	return found(FaultCluster, "%s: %v", doing, err)
}
