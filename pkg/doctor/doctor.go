package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Level tells how a finding matters.
type Level string

const (
	Good    Level = "ok"
	Unknown Level = "unknown"
	Warning Level = "warning"
	Bad     Level = "bad"
)

// Finding is the result of looking at one thing.
type Finding struct {
	// Name of what was looked at, for example "nbd module".
	Name  string `json:"name"`
	Level Level  `json:"level"`
	// Seen is what is there.
	Seen string `json:"seen"`
	// Do is what to do about it, "" for Good.
	Do string `json:"do,omitempty"`
}

// Host is what is examined. The zero value is this machine without a data directory.
type Host struct {
	// Root is put before every path that is read; tests set it.
	Root string
	// Release is the kernel's release; "" asks the kernel.
	Release string
	// DataDir is the data directory of a store, "" to leave it out.
	DataDir string
	// KubeletDir is where kubelet keeps volumes; "" means /var/lib/kubelet.
	KubeletDir string
	// Attach tells whether kernel NBD devices can be attached, with what to do in the
	// error's text; nil leaves it out.
	Attach func() error
	// LookPath finds a program; nil means the PATH.
	LookPath func(string) (string, error)
	// Clock tells whether the clock is synchronised; nil asks the kernel.
	Clock func() (synchronised bool, err error)
	// Cluster asks the API server of the cluster that the process runs in for a path
	// and returns the HTTP status; nil means there is no cluster.
	Cluster func(ctx context.Context, path string) (status int, err error)
}

// Examine looks at everything, in a fixed order.
func (h Host) Examine(ctx context.Context) []Finding {
	h = h.normal()
	var out []Finding
	for _, look := range []func(context.Context) []Finding{
		h.kernel, h.module, h.netlink, h.encryption, h.rights, h.programs,
		h.propagation, h.data, h.clock, h.snapshots,
	} {
		out = append(out, look(ctx)...)
	}
	return out
}

// Worst is the highest level among findings.
func Worst(findings []Finding) Level {
	rank := map[Level]int{Good: 0, Unknown: 1, Warning: 2, Bad: 3}
	worst := Good
	for _, f := range findings {
		if rank[f.Level] > rank[worst] {
			worst = f.Level
		}
	}
	return worst
}

func (h Host) normal() Host {
	if h.Release == "" {
		var u unix.Utsname
		if unix.Uname(&u) == nil {
			h.Release = unix.ByteSliceToString(u.Release[:])
		}
	}
	if h.KubeletDir == "" {
		h.KubeletDir = "/var/lib/kubelet"
	}
	return h
}

// path is where a file of the host is found.
func (h Host) path(elem ...string) string {
	return filepath.Join(append([]string{"/", h.Root}, elem...)...)
}

// read returns a file's content without white space around it.
func (h Host) read(elem ...string) (string, error) {
	b, err := os.ReadFile(h.path(elem...))
	return strings.TrimSpace(string(b)), err
}

func (h Host) exists(elem ...string) bool {
	_, err := os.Stat(h.path(elem...))
	return err == nil
}

func good(name, format string, args ...any) Finding {
	return Finding{Name: name, Level: Good, Seen: fmt.Sprintf(format, args...)}
}

func (f Finding) but(level Level, do string) Finding {
	f.Level, f.Do = level, do
	return f
}
