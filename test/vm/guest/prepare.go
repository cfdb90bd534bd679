package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/strata-csi/strata/test/vm/guest/wire"
)

// job is what both kinds of guests are told alike.
func job(m Machine, c Command) wire.Job {
	return wire.Job{Args: c.Args, Env: c.Env, Dir: c.Dir, Timeout: c.Timeout, Modules: m.Modules}
}

func encodeJob(j wire.Job) ([]byte, error) {
	b, err := json.Marshal(j)
	if err != nil {
		return nil, fmt.Errorf("write job: %w", err)
	}
	return b, nil
}

func writeJob(path string, j wire.Job) error {
	b, err := encodeJob(j)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return fmt.Errorf("write job: %w", err)
	}
	return nil
}

// buildInit builds the guest's first process into dir; Go's cache makes it quick.
func buildInit(ctx context.Context, dir string) (string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "init")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", file, "./test/vm/cmd/guest-init")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the first process: %w: %s", err, out)
	}
	return file, nil
}

// moduleRoot is the folder of go.mod.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if mod == "" || mod == os.DevNull {
		return "", fmt.Errorf("find the module: not inside its folder")
	}
	return filepath.Dir(mod), nil
}

// makeDisk makes a sparse file for a disk of m, in a place where it is not in memory.
func makeDisk(dir string, m Machine) (string, error) {
	if m.DiskBytes == 0 {
		return "", nil
	}
	file := filepath.Join(dir, "disk")
	f, err := os.Create(file)
	if err != nil {
		return "", fmt.Errorf("make disk: %w", err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Truncate(m.DiskBytes); err != nil {
		return "", fmt.Errorf("make disk: %w", err)
	}
	return file, nil
}
