package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"fmt"
	"path"
	"slices"
	"strings"
)

// closure picks from all files of the packages those that the wanted ones need.
type closure struct {
	all  tree
	kept tree
	// libs are where the loader looks, in its order.
	libs    []string
	machine elf.Machine
	todo    []string
}

// needed returns the wanted files and what they need: the targets of links, the loader and
// libraries of programs, the interpreters of scripts.
func needed(all tree, want []part, arch string) (tree, error) {
	triplet := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[arch]
	c := &closure{all: all, kept: tree{}, machine: machines[arch], libs: []string{"/usr/lib/" + triplet, "/usr/lib"}}
	if err := c.start(want); err != nil {
		return nil, err
	}
	for len(c.todo) > 0 {
		next := c.todo[0]
		c.todo = c.todo[1:]
		if err := c.keep(next); err != nil {
			return nil, err
		}
	}
	return c.kept, nil
}

// start finds what is wanted.
func (c *closure) start(want []part) error {
	for _, p := range want {
		for _, name := range p.programs {
			at, err := program(c.all, p.pkg, name)
			if err != nil {
				return err
			}
			c.todo = append(c.todo, at)
		}
		for _, name := range p.libs {
			i := slices.IndexFunc(c.libs, func(d string) bool { return c.all[d+"/"+name] != nil })
			if i < 0 {
				return fmt.Errorf("package %s has no %s", p.pkg, name)
			}
			c.todo = append(c.todo, c.libs[i]+"/"+name)
		}
		for _, root := range p.trees {
			found := c.all.below(root)
			if len(found) == 0 {
				return fmt.Errorf("package %s has no %s", p.pkg, root)
			}
			for _, f := range found {
				c.todo = append(c.todo, f.path)
			}
		}
	}
	return nil
}

// program finds a program of a package.
func program(all tree, pkg, name string) (string, error) {
	for _, dir := range []string{"/usr/sbin/", "/usr/bin/"} {
		if f := all[dir+name]; f != nil && f.pkg == pkg {
			return f.path, nil
		}
	}
	return "", fmt.Errorf("package %s has no program %s", pkg, name)
}

func (c *closure) keep(p string) error {
	if c.kept[p] != nil {
		return nil
	}
	f := c.all[p]
	if f == nil {
		return fmt.Errorf("%s is in no package", p)
	}
	c.kept[p] = f
	if f.kind == tar.TypeSymlink {
		c.todo = append(c.todo, f.link)
		return nil
	}
	switch {
	case bytes.HasPrefix(f.data, []byte(elf.ELFMAG)):
		return c.linked(f)
	case bytes.HasPrefix(f.data, []byte("#!")) && f.mode&0o111 != 0:
		line, _, _ := bytes.Cut(f.data[2:], []byte("\n"))
		words := strings.Fields(string(line))
		if len(words) == 0 {
			return fmt.Errorf("%s names no interpreter", p)
		}
		at := merged(words[0])
		if c.all[at] == nil {
			return fmt.Errorf("%s wants %s, which is in no package", p, words[0])
		}
		c.todo = append(c.todo, at)
	}
	return nil
}

// linked adds loader and libraries of a program or library.
func (c *closure) linked(f *file) error {
	e, err := elf.NewFile(bytes.NewReader(f.data))
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	if e.Machine != c.machine {
		return fmt.Errorf("%s is for %v, not %v", f.path, e.Machine, c.machine)
	}
	for _, p := range e.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			return fmt.Errorf("loader of %s: %w", f.path, err)
		}
		c.todo = append(c.todo, merged(string(bytes.TrimRight(b, "\x00"))))
	}
	libs, err := e.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("libraries of %s: %w", f.path, err)
	}
	dirs, err := c.search(e, f)
	if err != nil {
		return err
	}
	for _, lib := range libs {
		i := slices.IndexFunc(dirs, func(d string) bool { return c.all[d+"/"+lib] != nil })
		if i < 0 {
			return fmt.Errorf("%s wants %s, which is in no package", f.path, lib)
		}
		c.todo = append(c.todo, dirs[i]+"/"+lib)
	}
	return nil
}

// search is where the loader looks for the libraries of f.
func (c *closure) search(e *elf.File, f *file) ([]string, error) {
	var dirs []string
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		runs, err := e.DynString(tag)
		if err != nil {
			return nil, fmt.Errorf("libraries of %s: %w", f.path, err)
		}
		for _, run := range runs {
			for d := range strings.SplitSeq(run, ":") {
				dirs = append(dirs, merged(strings.NewReplacer("$ORIGIN", path.Dir(f.path), "${ORIGIN}", path.Dir(f.path)).Replace(d)))
			}
		}
	}
	return append(dirs, c.libs...), nil
}
