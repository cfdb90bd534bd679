package image

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Program adds a program of this machine, found in its PATH or by a path, under its own
// path, with the libraries that its loader needs.
func (img *Image) Program(ctx context.Context, name string) error {
	file, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("add program: %w", err)
	}
	return AddProgram(ctx, img.Files, file, file)
}

// AddProgram adds the program in file under the path at to files, with the libraries
// that its loader needs under their own paths.
func AddProgram(ctx context.Context, files map[string]File, file, at string) error {
	real, err := filepath.EvalSymlinks(file)
	if err != nil {
		return fmt.Errorf("add program: %w", err)
	}
	files[strings.TrimPrefix(at, "/")] = File{Host: real}
	// A static program makes ldd fail; what cannot be loaded shows when it is run.
	out, err := exec.CommandContext(ctx, "ldd", real).Output()
	if err != nil {
		return nil
	}
	for _, m := range regexp.MustCompile(`(?m)(/\S+) \(0x`).FindAllStringSubmatch(string(out), -1) {
		files[strings.TrimPrefix(m[1], "/")] = File{Host: m[1]}
	}
	return nil
}

// AddBusybox adds the static busybox with a link for each of its applets in /bin.
func AddBusybox(ctx context.Context, files map[string]File) error {
	const static = "/bin/busybox"
	out, err := exec.CommandContext(ctx, static, "--list").Output()
	if err != nil {
		return fmt.Errorf("list applets of %s (package busybox-static): %w", static, err)
	}
	files["bin/busybox"] = File{Host: static}
	for lines := bufio.NewScanner(strings.NewReader(string(out))); lines.Scan(); {
		if applet := lines.Text(); applet != "busybox" {
			files["bin/"+applet] = File{Link: "busybox"}
		}
	}
	return nil
}

// Tree writes files below dir, as hard links or copies where they are of the host.
func Tree(dir string, files map[string]File) error {
	for name, f := range files {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return fmt.Errorf("write tree: %w", err)
		}
		if err := place(at, f); err != nil {
			return fmt.Errorf("write tree: %w", err)
		}
	}
	return nil
}

func place(at string, f File) error {
	switch {
	case f.Host != "":
		content, err := os.ReadFile(f.Host)
		if err != nil {
			return err
		}
		info, err := os.Stat(f.Host)
		if err != nil {
			return err
		}
		return os.WriteFile(at, content, info.Mode().Perm())
	case f.Link != "":
		return os.Symlink(f.Link, at)
	case f.Content != "":
		mode := f.Mode
		if mode == 0 {
			mode = 0o644
		}
		return os.WriteFile(at, []byte(f.Content), mode)
	default:
		return os.MkdirAll(at, 0o755)
	}
}
