package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/pkg/store"
)

func TestEverySentinelHasAHint(t *testing.T) {
	for _, sentinel := range store.Sentinels() {
		if hintFor(fmt.Errorf("create img: %w", sentinel)) == "" {
			t.Errorf("no hint for %v", sentinel)
		}
	}
	if got := hintFor(errors.New("disk on fire")); got != "" {
		t.Errorf("a hint for an unknown error: %q", got)
	}
}

func TestTooDeep(t *testing.T) {
	for _, c := range []struct {
		info store.Info
		want bool
	}{
		{store.Info{Depth: 8, Policy: store.Policy{Soft: 8}}, false},
		{store.Info{Depth: 9, Policy: store.Policy{Soft: 8}}, true},
		{store.Info{Depth: 9}, false}, // the limit is not known
		{store.Info{Depth: 1, State: store.StateFlattening}, true},
	} {
		if got := tooDeep(c.info); got != c.want {
			t.Errorf("%+v: %v", c.info, got)
		}
	}
}

func TestReport(t *testing.T) {
	for _, c := range []struct {
		format format
		err    error
		code   int
		want   string
	}{
		{"table", nil, 0, ""},
		{"table", errors.New("boom"), 1, "strata: boom\n"},
		{"table", errors.Join(errors.New("one"), errors.New("two")), 1, "strata: one\nstrata: two\n"},
		{"table", advise(store.ErrNotFound, "look %s", "there"), 1, "strata: not found\nhint: look there\n"},
		{"table", &usageError{cmd: "strata rm", err: errors.New("what?")}, 2, "strata: what?\nhint: see: strata rm --help\n"},
		{"json", errors.New(`a "b" <c>`), 1, `{"error":"a \"b\" <c>"}` + "\n"},
	} {
		var b bytes.Buffer
		cl := &cli{streams: streams{err: &b}, format: c.format}
		if code := cl.report(c.err); code != c.code || b.String() != c.want {
			t.Errorf("%v: exit %d, %q; want %d, %q", c.err, code, b.String(), c.code, c.want)
		}
	}
}

// TestEveryVerbIsDocumented: help and completion know every verb, and every one is run
// by a script or a test of its own.
func TestEveryVerbIsDocumented(t *testing.T) {
	c := &cli{streams: streams{env: func(string) string { return "" }}, format: "table"}
	root := c.root()
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: short help %q", cmd.CommandPath(), cmd.Short)
		}
		if cmd.Runnable() && !cmd.HasSubCommands() && cmd.ValidArgsFunction == nil {
			t.Errorf("%s has no completion", cmd.CommandPath())
		}
		if cmd.Args == nil {
			t.Errorf("%s does not check its arguments", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit(root)
	for _, verb := range strings.Fields("create ls info rm resize clone flatten children tree du diff export import status check jobs publish unpublish publications uri snap store version") {
		if cmd, _, err := root.Find([]string{verb}); err != nil || cmd == root || cmd.GroupID == "" {
			t.Errorf("there is no verb %s", verb)
		}
	}
}

func TestCompletion(t *testing.T) {
	b := newBench(t)
	b.must("create", "--size", "1M", "data")
	b.must("create", "--size", "1M", "disk")
	b.must("snap", "create", "data@mon")
	b.must("snap", "create", "data@tue")
	for line, want := range map[string]string{
		"info d":                "data disk",
		"info data@":            "data@mon data@tue",
		"rm d":                  "data disk",
		"rm data d":             "disk",
		"snap rm data@mon d":    "data@tue",
		"snap rm d":             "data@mon data@tue",
		"clone data@t":          "data@tue",
		"clone data@tue d":      "",
		"flatten x":             "",
		"resize --size 1M di":   "disk",
		"export da":             "data",
		"ls d":                  "",
		"--format j":            "json",
		"jobs pause ":           "",
		"snap ls ":              "data disk",
		"tree data@mo":          "data@mon",
		"diff --from-snap x da": "data",
	} {
		words := strings.Split(line, " ")
		out := b.must(append([]string{cobra.ShellCompNoDescRequestCmd}, words...)...)
		var got []string
		for _, l := range strings.Split(strings.TrimSpace(out), "\n") {
			if !strings.HasPrefix(l, ":") && l != "" {
				got = append(got, l)
			}
		}
		if line == "--format j" { // fixed completions are filtered by the shell
			if !slices.Contains(got, "json") {
				t.Errorf("%q offers %v", line, got)
			}
			continue
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%q offers %q, want %q", line, s, want)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out := b.must("completion", shell); !strings.Contains(out, "strata") {
			t.Errorf("no completion for %s", shell)
		}
	}
}

func TestCompletionWithoutStoreIsQuick(t *testing.T) {
	var out, err bytes.Buffer
	code := run(t.Context(), []string{cobra.ShellCompNoDescRequestCmd, "--store", "/nonexistent/api.sock", "info", ""},
		streams{out: &out, err: &err, env: func(string) string { return "" }})
	if code != 0 || !strings.HasPrefix(out.String(), ":1\n") {
		t.Errorf("exit %d, %q", code, out.String())
	}
}

func TestVersion(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"--version"}, {"version", "--format", "json"}} {
		var out, err bytes.Buffer
		if code := run(t.Context(), args, streams{out: &out, err: &err, env: func(string) string { return "" }}); code != 0 || !strings.Contains(out.String(), version) {
			t.Errorf("%v: exit %d, %q", args, code, out.String())
		}
	}
}

// TestHostileNames: names from a script are data. None of them makes anything.
func TestHostileNames(t *testing.T) {
	b := newBench(t)
	src := b.file("src", content(8192))
	b.must("create", "--size", "1M", "good")
	before := b.must("ls", "-l")
	for _, name := range []string{
		"", ".", "..", "a/b", "../x", `a\b`, "a@", "@a", " a", "a ", "a\nb", "a\x00b", "a\x1b[2J", "a\u200bb", "a\xff",
		strings.Repeat("x", 256), "5f8c3ad0-7a52-4c1e-a2a1-5d1a7b8f0c11",
	} {
		for _, args := range [][]string{
			{"create", "--size", "1M", "--", name},
			{"clone", "good", "--", name},
			{"import", src, "--", name},
			{"snap", "create", "--", "good@" + name},
		} {
			if r := b.run(args...); r.code != 1 && r.code != 2 || !strings.HasPrefix(r.err, "strata: ") {
				t.Errorf("%q: %+v", args, r)
			}
		}
	}
	if after := b.must("ls", "-l"); after != before {
		t.Errorf("something was made:\n%s", after)
	}
}

// TestInterruptedHints: what is said of a command that was interrupted is true of it: of
// most it is not known whether they were obeyed.
func TestInterruptedHints(t *testing.T) {
	gone := fmt.Errorf("create: %w", context.Canceled)
	for want, err := range map[string]error{
		"it may have been done nevertheless": gone,
		"it goes on":                         interrupted(gone, goesOn),
		"remove it with: strata rm x":        interrupted(errors.Join(gone, advise(store.ErrUnavailable, "remove it with: strata rm x")), "nothing was left"),
		"start a store":                      interrupted(store.ErrUnavailable, goesOn),
	} {
		if got := hintFor(err); !strings.HasPrefix(got, want) {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}
