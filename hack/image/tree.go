package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// file is one entry of a root file system. Paths are absolute and clean, and as after the
// merge of /bin, /sbin and /lib into /usr.
type file struct {
	path string
	// kind is tar.TypeReg, tar.TypeDir or tar.TypeSymlink.
	kind byte
	mode uint32
	data []byte
	// link is where a symbolic link leads: a path of the tree.
	link string
	// pkg is the package it is from, "" for none.
	pkg string
}

// tree is a root file system.
type tree map[string]*file

// merged is where a path of a package is once /bin, /sbin and /lib* are links.
func merged(p string) string {
	p = path.Clean("/" + p)
	top, _, _ := strings.Cut(p[1:], "/")
	switch top {
	case "bin", "sbin", "lib", "lib32", "lib64", "libx32":
		return "/usr" + p
	}
	return p
}

// skipped are trees that no program needs. Copyrights stay.
var skipped = []string{
	"/usr/share/man/", "/usr/share/locale/", "/usr/share/info/", "/usr/share/bash-completion/", "/usr/share/lintian/",
	"/usr/lib/python", "/usr/share/perl", "/usr/lib/systemd/", "/usr/share/i18n/",
}

func skip(p string) bool {
	if strings.HasPrefix(p, "/usr/share/doc/") {
		return path.Base(p) != "copyright" && strings.Count(p, "/") > 4
	}
	return slices.ContainsFunc(skipped, func(s string) bool { return strings.HasPrefix(p, s) })
}

// add puts the files of a package into the tree.
func (t tree) add(pkg string, r *tar.Reader) error {
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("package %s: %w", pkg, err)
		}
		f := &file{path: merged(h.Name), mode: uint32(h.Mode) & 0o1777, pkg: pkg}
		if skip(f.path) {
			continue
		}
		switch h.Typeflag {
		case tar.TypeDir:
			continue // made as needed
		case tar.TypeReg:
			f.kind = tar.TypeReg
			if f.data, err = io.ReadAll(r); err != nil {
				return fmt.Errorf("package %s: %s: %w", pkg, h.Name, err)
			}
		case tar.TypeSymlink:
			f.kind, f.mode = tar.TypeSymlink, 0o777
			f.link = target(h.Name, h.Linkname)
		case tar.TypeLink:
			of := t[merged(h.Linkname)]
			if of == nil {
				return fmt.Errorf("package %s: %s is a link to %s, which is not there", pkg, h.Name, h.Linkname)
			}
			// Layers hold no hard links: a name that does the same leads there.
			f.kind, f.mode, f.link = tar.TypeSymlink, 0o777, of.path
		default:
			return fmt.Errorf("package %s: %s is of type %q", pkg, h.Name, h.Typeflag)
		}
		t[f.path] = f
	}
}

// target is the path a symbolic link of a package leads to. It is resolved where the
// package has it, because the merge changes how deep that is.
func target(name, link string) string {
	if !path.IsAbs(link) {
		link = path.Join("/", path.Dir(path.Clean("/"+name)), link)
	}
	return merged(link)
}

// follow returns the file at p, through symbolic links in any place of the path.
func (t tree) follow(p string) (*file, error) {
	for range 40 {
		if f := t[p]; f != nil {
			if f.kind != tar.TypeSymlink {
				return f, nil
			}
			p = f.link
			continue
		}
		dir, rest := path.Dir(p), path.Base(p)
		for dir != "/" && (t[dir] == nil || t[dir].kind != tar.TypeSymlink) {
			dir, rest = path.Dir(dir), path.Join(path.Base(dir), rest)
		}
		if dir == "/" {
			return nil, fmt.Errorf("%s is in no package", p)
		}
		p = path.Join(t[dir].link, rest)
	}
	return nil, fmt.Errorf("%s: too many symbolic links", p)
}

// below returns the files at and below p, sorted.
func (t tree) below(p string) []*file {
	var all []*file
	for at, f := range t {
		if at == p || strings.HasPrefix(at, p+"/") {
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b *file) int { return strings.Compare(a.path, b.path) })
	return all
}

// put adds a regular file that is of no package.
func (t tree) put(p string, mode uint32, data []byte) {
	t[p] = &file{path: p, kind: tar.TypeReg, mode: mode, data: data}
}

// dir adds a directory.
func (t tree) dir(p string, mode uint32) {
	t[p] = &file{path: p, kind: tar.TypeDir, mode: mode}
}

// parents adds the directories that lead to what is there.
func (t tree) parents() {
	for _, p := range t.paths() {
		for d := path.Dir(p); d != "/"; d = path.Dir(d) {
			if t[d] == nil {
				t.dir(d, 0o755)
			}
		}
	}
}

// paths returns all paths, sorted, directories before what is in them.
func (t tree) paths() []string {
	all := make([]string, 0, len(t))
	for p := range t {
		all = append(all, p)
	}
	slices.Sort(all)
	return all
}
