package pool

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/strata-csi/strata/pkg/store"
)

// Cluster says how a gateway reaches a Ceph cluster. Only gateways need the files.
type Cluster struct {
	// Name is the cluster's name in the pools file, a DNS label.
	Name string
	// Conf is the path of a ceph.conf, "" for none.
	Conf string
	// Monitors are hosts or host:port, instead of those in Conf.
	Monitors []string
	// User is the name of the cephx user, without "client.".
	User string
	// Keyring is a file with the user's key in Ceph's form; KeyFile one with the key
	// alone, as it is in a Secret. At most one is set; without either the cluster's
	// configuration says where the key is.
	Keyring, KeyFile string
}

// Ceph says where in which cluster a pool of backend ceph keeps its images.
type Ceph struct {
	Cluster Cluster
	// Pool is the cluster's name of the pool, Namespace an RBD namespace in it ("" is
	// the default one), DataPool where data is kept if that is another pool.
	Pool, Namespace, DataPool string
	// Installation tells those apart that share a place in a pool; "" is the default one.
	Installation string
}

// cluster reads one cluster and adds it to cfg.
func (p *parser) cluster(n *yaml.Node, cfg *Config) error {
	var c Cluster
	err := p.mapping(n, "a cluster", map[string]func(*yaml.Node) error{
		"name":     func(n *yaml.Node) error { return p.check(n, &c.Name, ValidateName) },
		"conf":     func(n *yaml.Node) error { return p.check(n, &c.Conf, validatePath) },
		"monitors": func(n *yaml.Node) error { return p.monitors(n, &c) },
		"user":     func(n *yaml.Node) error { return p.check(n, &c.User, validateUser) },
		"keyring":  func(n *yaml.Node) error { return p.check(n, &c.Keyring, validatePath) },
		"keyFile":  func(n *yaml.Node) error { return p.check(n, &c.KeyFile, validatePath) },
	})
	switch {
	case err != nil:
		return err
	case c.Name == "":
		return p.fail(n, "a cluster needs a name")
	case c.Conf == "" && len(c.Monitors) == 0:
		return p.fail(n, "cluster %s needs conf, the path of its ceph.conf, or monitors", c.Name)
	case c.User == "":
		return p.fail(n, "cluster %s needs a user", c.Name)
	case c.Keyring != "" && c.KeyFile != "":
		return p.fail(n, "cluster %s has keyring and keyFile; one of them holds the key", c.Name)
	case c.Conf == "" && c.Keyring == "" && c.KeyFile == "":
		return p.fail(n, "cluster %s has no conf, so it needs keyring or keyFile", c.Name)
	case slices.ContainsFunc(cfg.Clusters, func(o Cluster) bool { return o.Name == c.Name }):
		return p.fail(n, "cluster %s appears twice", c.Name)
	}
	cfg.Clusters = append(cfg.Clusters, c)
	return nil
}

func (p *parser) clusters(n *yaml.Node, cfg *Config) error {
	if n.Kind != yaml.SequenceNode {
		return p.fail(n, "clusters must be a list")
	}
	for _, c := range n.Content {
		if err := p.cluster(c, cfg); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) monitors(n *yaml.Node, c *Cluster) error {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		return p.fail(n, "monitors must be a list of addresses")
	}
	for _, m := range n.Content {
		var addr string
		if err := p.check(m, &addr, validateMonitor); err != nil {
			return err
		}
		if slices.Contains(c.Monitors, addr) {
			return p.fail(m, "monitor %s appears twice", addr)
		}
		c.Monitors = append(c.Monitors, addr)
	}
	return nil
}

// ofCeph are the keys of a pool that backend ceph alone has.
func ofCeph() []string {
	return []string{"cluster", "cephPool", "namespace", "dataPool", "installation"}
}

// cephKeys are the nodes of those keys, until the whole of the pool is known.
type cephKeys map[string]*yaml.Node

func (p *parser) cephKeys(keys map[string]func(*yaml.Node) error) cephKeys {
	at := make(cephKeys)
	for _, k := range ofCeph() {
		keys[k] = func(n *yaml.Node) error { at[k] = n; return nil }
	}
	return at
}

// ceph completes a pool with what it says of Ceph.
func (p *parser) ceph(n *yaml.Node, at cephKeys, s *Settings, cfg *Config) error {
	if s.Backend != BackendCeph {
		for _, k := range ofCeph() {
			if at[k] != nil {
				return p.fail(at[k], "%s is for backend ceph, and pool %s has backend %s", k, s.Name, s.Backend)
			}
		}
		return nil
	}
	var c Ceph
	var name string
	for _, f := range []struct {
		key   string
		to    *string
		valid func(string) error
	}{
		{"cluster", &name, ValidateName}, {"cephPool", &c.Pool, validateCephName},
		{"namespace", &c.Namespace, validateCephName}, {"dataPool", &c.DataPool, validateCephName},
		{"installation", &c.Installation, validateInstallation},
	} {
		if at[f.key] == nil {
			continue
		}
		if err := p.check(at[f.key], f.to, f.valid); err != nil {
			return err
		}
	}
	if name == "" || c.Pool == "" {
		return p.fail(n, "pool %s has backend ceph, so it needs cluster, one of those under clusters, and cephPool", s.Name)
	}
	i := slices.IndexFunc(cfg.Clusters, func(o Cluster) bool { return o.Name == name })
	if i < 0 {
		return p.fail(at["cluster"], "no cluster %s is under clusters", name)
	}
	c.Cluster = cfg.Clusters[i]
	for _, o := range cfg.Pools {
		if o.Ceph != nil && o.Ceph.Cluster.Name == name && o.Ceph.Pool == c.Pool && o.Ceph.Namespace == c.Namespace && o.Ceph.Installation == c.Installation {
			return p.fail(at["cephPool"], "pool %s keeps its images there already", o.Name)
		}
	}
	s.Ceph = &c
	return nil
}

func validatePath(s string) error {
	if !strings.HasPrefix(s, "/") {
		return fmt.Errorf("%q must begin with '/'", s)
	}
	return nil
}

func validateInstallation(s string) error {
	if err := ValidateName(s); err != nil {
		return fmt.Errorf("installation %q is no DNS label of at most %d bytes", s, MaxName)
	}
	return nil
}

func validateUser(s string) error {
	if strings.HasPrefix(s, "client.") {
		return fmt.Errorf("%q: the user is named without \"client.\"", s)
	}
	return validateCephName(s)
}

// validateCephName refuses what the names of pools, namespaces and users cannot hold
// without being taken for something else.
func validateCephName(s string) error {
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune("/@,;=\"'", r) }) {
		return fmt.Errorf("%q: a name in Ceph has no white space and none of / @ , ; = and quotes here: %w", s, store.ErrInvalid)
	}
	return nil
}

// validateMonitor accepts a host or an address, with a port or without.
func validateMonitor(s string) error {
	host := s
	if h, port, err := net.SplitHostPort(s); err == nil {
		host = h
		if port == "" {
			return fmt.Errorf("%q has no port after the colon", s)
		}
	} else if net.ParseIP(s) == nil && strings.Contains(s, ":") {
		return fmt.Errorf("%q is neither a host nor host:port", s)
	}
	if host == "" {
		return fmt.Errorf("%q has no host", s)
	}
	return validateCephName(host)
}
