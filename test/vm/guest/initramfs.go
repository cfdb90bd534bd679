package guest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// archive writes an initramfs: cpio in the "newc" form, which the kernel unpacks.
type archive struct {
	w    *bufio.Writer
	size int64
	dirs map[string]bool
	err  error
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriterSize(w, 1<<20), dirs: map[string]bool{}}
}

// add adds a file with the folders above it.
func (a *archive) add(name string, mode uint32, content []byte) {
	for i := range name {
		if dir := name[:i]; i > 0 && name[i] == '/' && !a.dirs[dir] {
			a.dirs[dir] = true
			a.entry(dir, 0o040755, nil)
		}
	}
	a.entry(name, 0o100000|mode, content)
}

// dir adds an empty folder.
func (a *archive) dir(name string) { a.add(name+"/.keep", 0o644, nil) }

func (a *archive) entry(name string, mode uint32, content []byte) {
	// magic, inode, mode, uid, gid, links, mtime, size, device ×2, rdev ×2, length of
	// the name with its NUL, checksum; all in eight hexadecimal digits.
	a.put(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0))
	a.put(append([]byte(name), 0))
	a.pad()
	a.put(content)
	a.pad()
}

func (a *archive) put(p []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(p)
		a.size += int64(len(p))
	}
}

func (a *archive) pad() { a.put(make([]byte, -a.size&3)) }

func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, nil)
	if a.err != nil {
		return fmt.Errorf("write initramfs: %w", a.err)
	}
	if err := a.w.Flush(); err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	return nil
}

// addModules adds modules and what they need, and the lists that say so.
func (a *archive) addModules(k kernel, names []string) error {
	list, err := os.ReadFile(filepath.Join(k.modules, "modules.dep"))
	if err != nil {
		return fmt.Errorf("read modules: %w", err)
	}
	wanted := map[string]bool{}
	for _, n := range names {
		wanted[n] = true
	}
	base := "lib/modules/" + filepath.Base(k.modules)
	var kept bytes.Buffer
	added := map[string]bool{}
	for line := range strings.Lines(string(list)) {
		file, needs, _ := strings.Cut(strings.TrimSpace(line), ":")
		name := strings.TrimSuffix(path.Base(file), ".ko")
		if !wanted[name] {
			continue
		}
		delete(wanted, name)
		kept.WriteString(line)
		for _, f := range append(strings.Fields(needs), file) {
			if added[f] {
				continue
			}
			added[f] = true
			content, err := os.ReadFile(filepath.Join(k.modules, f))
			if err != nil {
				return fmt.Errorf("read modules: %w", err)
			}
			a.add(base+"/"+f, 0o644, content)
		}
	}
	// What is wanted and no module is said by the guest unless it is built in.
	builtin, err := os.ReadFile(filepath.Join(k.modules, "modules.builtin"))
	if err != nil {
		return fmt.Errorf("read modules: %w", err)
	}
	a.add(base+"/modules.dep", 0o644, kept.Bytes())
	a.add(base+"/modules.builtin", 0o644, builtin)
	return nil
}
