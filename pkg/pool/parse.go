package pool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/strata-csi/strata/pkg/store"
)

// Parse reads the content of a pools file; name is the file's, for errors. A key that
// is not known, appears twice or has a value of the wrong kind is refused.
func Parse(name string, data []byte) (Config, error) {
	p := &parser{file: name}
	root, err := p.document(data)
	if err != nil {
		return Config{}, err
	}
	var cfg Config
	var pools, clusters *yaml.Node
	err = p.mapping(root, "the file", map[string]func(*yaml.Node) error{
		"pools":    func(n *yaml.Node) error { pools = n; return nil },
		"clusters": func(n *yaml.Node) error { clusters = n; return nil },
		"tls":      func(n *yaml.Node) error { return p.tls(n, &cfg) },
		"insecure": func(n *yaml.Node) error { return p.boolean(n, &cfg.Insecure) },
	})
	if err != nil {
		return Config{}, err
	}
	if pools == nil || pools.Kind != yaml.SequenceNode || len(pools.Content) == 0 {
		return Config{}, p.fail(root, "pools must be a list of at least one pool")
	}
	if clusters != nil {
		if err := p.clusters(clusters, &cfg); err != nil {
			return Config{}, err
		}
	}
	for _, n := range pools.Content {
		s, err := p.pool(n, &cfg)
		if err != nil {
			return Config{}, err
		}
		cfg.Pools = append(cfg.Pools, s)
	}
	if len(cfg.Pools) == 1 {
		cfg.Pools[0].Default = true
	}
	return cfg, nil
}

// parser turns nodes into values and remembers the file for its errors.
type parser struct{ file string }

func (p *parser) fail(n *yaml.Node, format string, args ...any) error {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), ": "+store.ErrInvalid.Error(), "")
	return fmt.Errorf("%s:%d: %s: %w", p.file, max(n.Line, 1), text, store.ErrInvalid)
}

// document is the root of the only document in the file.
func (p *parser) document(data []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, p.fail(&doc, "the file is empty")
	case err != nil:
		return nil, p.syntax(err)
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, p.syntax(err)
		}
		return nil, p.fail(&second, "only one document is allowed")
	}
	return doc.Content[0], nil
}

// syntax moves the line of a syntax error to where all errors have it.
func (p *parser) syntax(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if m := regexp.MustCompile(`^line (\d+): (.*)$`).FindStringSubmatch(text); m != nil {
		return fmt.Errorf("%s:%s: %s: %w", p.file, m[1], m[2], store.ErrInvalid)
	}
	return fmt.Errorf("%s:1: %s: %w", p.file, text, store.ErrInvalid)
}

// mapping calls the function of each key in n.
func (p *parser) mapping(n *yaml.Node, what string, keys map[string]func(*yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return p.fail(n, "%s must have the form key: value", what)
	}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		set, ok := keys[key.Value]
		switch {
		case !ok:
			known := make([]string, 0, len(keys))
			for k := range keys {
				known = append(known, k)
			}
			slices.Sort(known)
			return p.fail(key, "unknown key %q; %s may have %s", key.Value, what, strings.Join(known, ", "))
		case seen[key.Value]:
			return p.fail(key, "key %q appears twice", key.Value)
		}
		seen[key.Value] = true
		if err := set(n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) text(n *yaml.Node, to *string) error {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" || n.Value == "" {
		return p.fail(n, "want a text, found %q", n.Value)
	}
	*to = n.Value
	return nil
}

func (p *parser) boolean(n *yaml.Node, to *bool) error {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
		return p.fail(n, "want true or false, found %q", n.Value)
	}
	return n.Decode(to)
}

func (p *parser) number(n *yaml.Node, to *int64) error {
	v, err := strconv.ParseInt(n.Value, 10, 64)
	if n.Kind != yaml.ScalarNode || err != nil || v < 0 {
		return p.fail(n, "want a whole number of at least 0, found %q", n.Value)
	}
	*to = v
	return nil
}

func (p *parser) tls(n *yaml.Node, cfg *Config) error {
	var t TLS
	err := p.mapping(n, "tls", map[string]func(*yaml.Node) error{
		"ca":   func(n *yaml.Node) error { return p.text(n, &t.CA) },
		"cert": func(n *yaml.Node) error { return p.text(n, &t.Cert) },
		"key":  func(n *yaml.Node) error { return p.text(n, &t.Key) },
	})
	if err != nil {
		return err
	}
	if t.CA == "" || t.Cert == "" || t.Key == "" {
		return p.fail(n, "tls needs ca, cert and key")
	}
	cfg.TLS = &t
	return nil
}

// pool reads one pool and checks it against those before it. Errors about a value name
// the value's line.
func (p *parser) pool(n *yaml.Node, cfg *Config) (Settings, error) {
	s := Settings{Backend: BackendLayered}
	at := make(map[string]*yaml.Node) // where each address is written
	var soft, hard, block int64
	var policy *yaml.Node
	keys := map[string]func(*yaml.Node) error{
		"name":           func(n *yaml.Node) error { return p.check(n, &s.Name, ValidateName) },
		"default":        func(n *yaml.Node) error { return p.boolean(n, &s.Default) },
		"backend":        func(n *yaml.Node) error { return p.check(n, &s.Backend, validateBackend) },
		"members":        func(n *yaml.Node) error { return p.members(n, &s, at) },
		"service":        func(n *yaml.Node) error { at[n.Value] = n; return p.check(n, &s.Service, validateService) },
		"local":          func(n *yaml.Node) error { return p.check(n, &s.Local, validateLocal) },
		"cloneMode":      func(n *yaml.Node) error { return p.check(n, &s.CloneMode, ValidateCloneMode) },
		"softCloneDepth": func(n *yaml.Node) error { policy = n; return p.number(n, &soft) },
		"hardCloneDepth": func(n *yaml.Node) error { policy = n; return p.number(n, &hard) },
		"blockSize": func(n *yaml.Node) error {
			if err := p.number(n, &block); err != nil {
				return err
			}
			if err := store.ValidateBlockSize(int(block)); err != nil {
				return p.fail(n, "%v", err)
			}
			return nil
		},
		"iops":      func(n *yaml.Node) error { return p.number(n, &s.Limits.IOPS) },
		"bandwidth": func(n *yaml.Node) error { return p.number(n, &s.Limits.Bandwidth) },
	}
	ceph := p.cephKeys(keys)
	if err := p.mapping(n, "a pool", keys); err != nil {
		return Settings{}, err
	}
	s.Policy, s.BlockSize = store.Policy{Soft: int(soft), Hard: int(hard)}, int(block)
	if err := store.ValidatePolicy(s.Policy); err != nil {
		return Settings{}, p.fail(policy, "%v", err)
	}
	if err := p.whole(n, s, at, cfg); err != nil {
		return Settings{}, err
	}
	return s, p.ceph(n, ceph, &s, cfg)
}

// whole checks what concerns more than one key.
func (p *parser) whole(n *yaml.Node, s Settings, at map[string]*yaml.Node, cfg *Config) error {
	switch {
	case s.Name == "":
		return p.fail(n, "a pool needs a name")
	case len(s.Members) == 0 && s.Service == "" && s.Local == "":
		return p.fail(n, "pool %s needs members, a service or a local data directory", s.Name)
	}
	for _, o := range cfg.Pools {
		if o.Name == s.Name {
			return p.fail(n, "pool %s appears twice", s.Name)
		}
		if o.Default && s.Default {
			return p.fail(n, "pools %s and %s are both the default", o.Name, s.Name)
		}
	}
	if cfg.TLS != nil || cfg.Insecure {
		return nil
	}
	for _, addr := range append(slices.Clone(s.Members), s.Service) {
		if addr != "" && !plain(addr) {
			return p.fail(at[addr], "%s is reached over the network, so the file must have tls, or insecure: true", addr)
		}
	}
	return nil
}

func (p *parser) check(n *yaml.Node, to *string, valid func(string) error) error {
	if err := p.text(n, to); err != nil {
		return err
	}
	if err := valid(*to); err != nil {
		return p.fail(n, "%v", err)
	}
	return nil
}

func (p *parser) members(n *yaml.Node, s *Settings, at map[string]*yaml.Node) error {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		return p.fail(n, "members must be a list of addresses")
	}
	for _, m := range n.Content {
		var addr string
		if err := p.check(m, &addr, validateAddress); err != nil {
			return err
		}
		if at[addr] != nil {
			return p.fail(m, "member %s appears twice", addr)
		}
		at[addr] = m
		s.Members = append(s.Members, addr)
	}
	return nil
}

func validateService(s string) error {
	if strings.HasPrefix(s, "unix:") {
		return fmt.Errorf("%q is no host:port", s)
	}
	return validateAddress(s)
}

func validateLocal(s string) error {
	if !strings.HasPrefix(s, "/") {
		return fmt.Errorf("%q must begin with '/'", s)
	}
	return nil
}

func validateBackend(s string) error {
	switch s {
	case BackendLayered, BackendCeph:
		return nil
	}
	return fmt.Errorf("unknown backend %q; %s and %s are known", s, BackendLayered, BackendCeph)
}
