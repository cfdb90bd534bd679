package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// top is the root of the repository as seen from this package.
const top = "../.."

// document is a page for users, by its path from the root of the repository.
type document struct {
	path  string
	lines []string
}

// documents are all pages for users.
func documents(t *testing.T) []document {
	t.Helper()
	var all []document
	for _, pattern := range []string{"*.md", "docs/*.md", "charts/strata/README.md", "deploy/*/README.md"} {
		found, err := filepath.Glob(filepath.Join(top, pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		for _, path := range found {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, document{strings.TrimPrefix(path, top+"/"), strings.Split(string(text), "\n")})
		}
	}
	return all
}

// code calls block with every line of the blocks of commands, and inline with every text
// in backquotes.
func (d document) code(block, inline func(line int, text string)) {
	fence := ""
	quoted := regexp.MustCompile("`([^`]+)`")
	for i, line := range d.lines {
		if mark, ok := strings.CutPrefix(strings.TrimSpace(line), "```"); ok {
			if fence == "" {
				fence = "```" + mark
			} else {
				fence = ""
			}
			continue
		}
		switch fence {
		case "":
			for _, m := range quoted.FindAllStringSubmatch(line, -1) {
				inline(i+1, m[1])
			}
		case "```", "```sh":
			block(i+1, line)
		}
	}
}

// TestDocumentedCommands: every command of the tool that a page shows has a verb, flags
// and arguments that the tool takes.
func TestDocumentedCommands(t *testing.T) {
	calls := regexp.MustCompile(`(?:^|[|;&(]|-- )\s*strata ([^|;&)#>"]+)`)
	checked := 0
	for _, d := range documents(t) {
		try := func(line int, text string, whole bool) {
			for _, m := range calls.FindAllStringSubmatch(text, -1) {
				checked++
				if err := understood(strings.Fields(m[1]), whole); err != nil {
					t.Errorf("%s:%d: strata %s: %v", d.path, line, m[1], err)
				}
			}
		}
		d.code(
			func(line int, text string) { try(line, strings.TrimSpace(text), true) },
			func(line int, text string) { try(line, text, false) },
		)
	}
	if checked < 50 {
		t.Errorf("only %d commands were found", checked)
	}
}

// understood parses arguments; whole also wants all of them to be there.
func understood(args []string, whole bool) error {
	c := &cli{streams: streams{env: func(string) string { return "" }}, format: "table"}
	root := c.root()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if cmd == root && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		return subcommandOnly(cmd, rest)
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	if !whole && cmd.Flags().NArg() == 0 {
		return nil
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

// TestDocumentedTargets: what a page says about make is in the Makefile.
func TestDocumentedTargets(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(top, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	targets := regexp.MustCompile(`^make ([a-z0-9-]+(?: [a-z0-9-]+)*)`)
	for _, d := range documents(t) {
		try := func(line int, text string) {
			m := targets.FindStringSubmatch(text)
			if m == nil {
				return
			}
			for target := range strings.FieldsSeq(m[1]) {
				if !bytes.Contains(makefile, []byte("\n"+target+":")) {
					t.Errorf("%s:%d: the Makefile has no %s", d.path, line, target)
				}
			}
		}
		d.code(try, try)
	}
}

// TestDocumentLinks: links within the repository lead somewhere.
func TestDocumentLinks(t *testing.T) {
	links := regexp.MustCompile(`\]\(([^)]+)\)`)
	for _, d := range documents(t) {
		for i, line := range d.lines {
			for _, m := range links.FindAllStringSubmatch(line, -1) {
				path, anchor, _ := strings.Cut(m[1], "#")
				if strings.Contains(path, "://") {
					continue
				}
				file := filepath.Join(top, filepath.Dir(d.path), path)
				if path == "" {
					file = filepath.Join(top, d.path)
				}
				if err := leads(file, anchor); err != nil {
					t.Errorf("%s:%d: %s: %v", d.path, i+1, m[1], err)
				}
			}
		}
	}
}

// leads tells whether a file, and a heading in it, is there.
func leads(file, anchor string) error {
	if _, err := os.Stat(file); err != nil || anchor == "" {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	strange := regexp.MustCompile(`[^a-z0-9 -]`)
	for line := range strings.SplitSeq(string(text), "\n") {
		if title := strings.TrimLeft(line, "#"); title != line {
			name := strange.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
			if strings.ReplaceAll(name, " ", "-") == anchor {
				return nil
			}
		}
	}
	return fs.ErrNotExist
}

// TestDocumentedMessages: what the page about symptoms quotes in its tables is what the
// programs say; … stands for what differs.
func TestDocumentedMessages(t *testing.T) {
	said := sources(t)
	quoted := regexp.MustCompile("`([^`]+)`")
	checked := 0
	for _, d := range documents(t) {
		if d.path != "docs/troubleshooting.md" {
			continue
		}
		for i, line := range d.lines {
			if !strings.HasPrefix(line, "| ") {
				continue
			}
			symptom, _, _ := strings.Cut(line[2:], " | ")
			for _, m := range quoted.FindAllStringSubmatch(symptom, -1) {
				for piece := range strings.SplitSeq(m[1], "…") {
					if piece = strings.Trim(piece, " ();,"); piece == "" {
						continue
					}
					checked++
					if !strings.Contains(said, piece) {
						t.Errorf("%s:%d: nobody says %q", d.path, i+1, piece)
					}
				}
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d messages were found", checked)
	}
}

// sources is the text of all programs.
func sources(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, dir := range []string{"cmd", "pkg"} {
		err := filepath.WalkDir(filepath.Join(top, dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			all.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}
