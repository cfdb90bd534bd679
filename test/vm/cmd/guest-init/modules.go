package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// loadModules loads modules with what they need, from the folder of the running
// kernel below dir. Each is a name that parameters may follow. A module that the
// kernel has built in is loaded already.
func loadModules(dir string, modules []string) error {
	if len(modules) == 0 {
		return nil
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("kernel version: %w", err)
	}
	tree, err := readDependencies(filepath.Join(dir, unix.ByteSliceToString(name.Release[:])))
	if err != nil {
		return err
	}
	for _, m := range modules {
		name, parameters, _ := strings.Cut(m, " ")
		if err := tree.load(name, parameters); err != nil {
			return err
		}
	}
	return nil
}

// dependencies is what modules.dep and modules.builtin say.
type dependencies struct {
	dir     string
	file    map[string]string   // name → file below dir
	needs   map[string][]string // name → files, the deepest last
	builtin map[string]bool
}

// moduleName is what the kernel calls the module in a file.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
}

func readDependencies(dir string) (*dependencies, error) {
	d := &dependencies{dir: dir, file: map[string]string{}, needs: map[string][]string{}, builtin: map[string]bool{}}
	err := eachLine(filepath.Join(dir, "modules.dep"), func(line string) {
		file, needs, _ := strings.Cut(line, ":")
		d.file[moduleName(file)] = file
		d.needs[moduleName(file)] = strings.Fields(needs)
	})
	if err != nil {
		return nil, err
	}
	return d, eachLine(filepath.Join(dir, "modules.builtin"), func(line string) {
		d.builtin[moduleName(line)] = true
	})
}

func eachLine(file string, do func(line string)) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read modules: %w", err)
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		do(lines.Text())
	}
	return lines.Err()
}

// load loads a module after what it needs; one that is loaded is left as it is.
func (d *dependencies) load(name, parameters string) error {
	name = strings.ReplaceAll(name, "-", "_")
	if d.builtin[name] {
		return nil
	}
	file, ok := d.file[name]
	if !ok {
		return fmt.Errorf("load module %s: not in %s", name, d.dir)
	}
	for _, needed := range slices.Backward(d.needs[name]) {
		if err := d.insert(needed, ""); err != nil {
			return err
		}
	}
	return d.insert(file, parameters)
}

func (d *dependencies) insert(file, parameters string) error {
	f, err := os.Open(filepath.Join(d.dir, file))
	if err != nil {
		return fmt.Errorf("load module: %w", err)
	}
	defer func() { _ = f.Close() }()
	err = unix.FinitModule(int(f.Fd()), parameters, 0)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", file, err)
	}
	return nil
}
