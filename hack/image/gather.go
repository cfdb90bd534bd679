package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
)

// pack is a package that gave files to the image.
type pack struct {
	name, version, arch string
	// control is its record, as dpkg has it.
	control string
}

// gather makes the layer of programs, and tells of which packages it is made.
func gather(ctx context.Context, o options, log io.Writer) (tree, []pack, error) {
	a, closed, err := openApt(o, log)
	if err != nil {
		return nil, nil, err
	}
	defer closed()
	if err := a.refresh(ctx, o.update); err != nil {
		return nil, nil, err
	}
	var names []string
	for _, p := range contents {
		names = append(names, p.pkg)
	}
	archives, err := a.fetch(ctx, names)
	if err != nil {
		return nil, nil, err
	}
	all := tree{}
	var packs []pack
	for _, path := range archives {
		p, err := unpack(ctx, path, all)
		if err != nil {
			return nil, nil, err
		}
		packs = append(packs, p)
	}
	return compose(all, packs, contents, o.arch)
}

// unpack reads a package's record, and its files into the tree.
func unpack(ctx context.Context, path string, all tree) (pack, error) {
	control, err := exec.CommandContext(ctx, "dpkg-deb", "--field", path).Output()
	if err != nil {
		return pack{}, fmt.Errorf("record of %s: %w", path, err)
	}
	p := pack{
		name: field(control, "Package"), version: field(control, "Version"), arch: field(control, "Architecture"),
		control: string(control),
	}
	if p.name == "" || p.version == "" {
		return pack{}, fmt.Errorf("record of %s names neither package nor version", path)
	}
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", path)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return pack{}, err
	}
	if err := cmd.Start(); err != nil {
		return pack{}, fmt.Errorf("open %s: %w", path, err)
	}
	err = all.add(p.name, tar.NewReader(pipe))
	if err == nil {
		_, err = io.Copy(io.Discard, pipe) // padding
	}
	if waitErr := cmd.Wait(); waitErr != nil {
		err = errors.Join(err, fmt.Errorf("unpack %s: %w: %s", path, waitErr, bytes.TrimSpace(errs.Bytes())))
	}
	return p, err
}

// field is a field of a record, which begins a line.
func field(control []byte, name string) string {
	for line := range strings.Lines(string(control)) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// compose makes the layer of programs from all files of the packages.
func compose(all tree, packs []pack, want []part, arch string) (tree, []pack, error) {
	t, err := needed(all, want, arch)
	if err != nil {
		return nil, nil, err
	}
	gave := map[string]bool{}
	for _, f := range t {
		gave[f.pkg] = true
	}
	packs = slices.DeleteFunc(slices.Clone(packs), func(p pack) bool { return !gave[p.name] })
	slices.SortFunc(packs, func(a, b pack) int { return strings.Compare(a.name, b.name) })
	for _, p := range packs {
		f, err := all.follow("/usr/share/doc/" + p.name + "/copyright")
		if err != nil {
			return nil, nil, fmt.Errorf("copyright of package %s: %w", p.name, err)
		}
		t.put("/usr/share/doc/"+p.name+"/copyright", 0o644, f.data)
		// Where scanners look when there is no dpkg.
		t.put("/var/lib/dpkg/status.d/"+p.name, 0o644, []byte(p.control))
	}
	for p, mode := range dirs {
		t.dir(p, mode)
	}
	for p, to := range links {
		t[p] = &file{path: p, kind: tar.TypeSymlink, mode: 0o777, link: to}
	}
	for p, text := range texts {
		t.put(p, 0o644, []byte(text))
	}
	t.parents()
	return t, packs, nil
}
