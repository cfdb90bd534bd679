package cluster

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// settings of ceph.conf but for those that have a folder or an address in them.
//
// The full ratio must stay below that of the OSD (.97). Clients wait 300 s by default for
// a monitor that is gone, which no test has. 61 is layering, exclusive-lock, object-map,
// fast-diff and deep-flatten. A fast shutdown leaves out writing a memory store to disk.
// Cache settings are left as they come: what needs the cache
// off must see to it itself.
const settings = `
public network = 127.0.0.0/8
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd crush initial weight = 1
mon allow pool size one = true
mon allow pool delete = true
mon warn on pool no redundancy = false
mon data avail warn = 1
mon data avail crit = 0
mon osd full ratio = .96
mon max pg per osd = 1000
osd memory target = 939524096
osd op num shards = 2
osd op num threads per shard = 1
osd heartbeat interval = 2
osd fast shutdown = false
bluestore block db size = 0
bluestore block wal size = 0
bluestore fsck on mount = false
paxos propose interval = 0.05
paxos min wait = 0.01
rbd default clone format = 2
rbd default features = 61
`

// writeConf writes ceph.conf and the folders that it names.
func (c *Cluster) writeConf() error {
	for _, d := range []string{"mon", "osd", "run", "log"} {
		if err := os.Mkdir(filepath.Join(c.dir, d), 0o700); err != nil {
			return fmt.Errorf("make folders: %w", err)
		}
	}
	var b strings.Builder
	line := func(key, format string, args ...any) {
		fmt.Fprintf(&b, "%s = %s\n", key, fmt.Sprintf(format, args...))
	}
	b.WriteString("[global]\n")
	line("fsid", "%s", c.fsid)
	line("mon host", "v2:%s", c.addr)
	line("public addr", "127.0.0.1")
	line("cluster addr", "127.0.0.1")
	line("keyring", "%s/keyring", c.dir)
	line("run dir", "%s/run", c.dir)
	line("crash dir", "%s/log", c.dir)
	line("log file", "%s/log/$name.log", c.dir)
	line("admin socket", "%s/run/$name.asok", c.dir)
	line("pid file", "%s/run/$name.pid", c.dir)
	line("osd objectstore", "%s", c.opts.ObjectStore)
	line("memstore device bytes", "%d", c.opts.Bytes)
	line("bluestore block size", "%d", c.opts.Bytes)
	b.WriteString(strings.TrimPrefix(settings, "\n"))
	b.WriteString(c.opts.Extra)
	b.WriteString("\n[client]\nlog file =\nadmin socket =\n")
	line("client mount timeout", "15")
	line("rados mon op timeout", "15")
	b.WriteString("[mon.a]\n")
	line("mon data", "%s/mon", c.dir)
	line("mon addr", "v2:%s", c.addr)
	b.WriteString("[osd.0]\n")
	line("osd data", "%s/osd", c.dir)
	if err := os.WriteFile(c.Conf(), []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

// freeAddress is a loopback address on which nothing listens now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a port: %w", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

// newUUID is a random UUID.
func newUUID() string {
	var u [16]byte
	_, _ = rand.Read(u[:]) // never fails
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
