package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// kernel is Debian's, unpacked.
type kernel struct {
	image   string // vmlinuz
	modules string // the folder with modules.dep, named after the version
}

// debianKernel returns the kernel that linux-image-amd64 stands for. It is fetched
// from the machine's Debian mirror, once a version, and kept in the user's cache. When
// the mirror cannot be asked the newest in the cache is taken.
func debianKernel(ctx context.Context) (kernel, error) {
	cache, err := cacheDir("kernel")
	if err != nil {
		return kernel{}, err
	}
	unlock, err := lock(filepath.Join(cache, "lock"))
	if err != nil {
		return kernel{}, err
	}
	defer unlock()
	name, version, askErr := askForKernel(ctx)
	if askErr == nil {
		dir := filepath.Join(cache, name+"_"+version)
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			askErr = fetchKernel(ctx, name, dir)
		}
		if askErr == nil {
			return findKernel(dir)
		}
	}
	kept, err := filepath.Glob(filepath.Join(cache, "linux-image-*", "boot", "vmlinuz-*"))
	if err != nil || len(kept) == 0 {
		return kernel{}, askErr
	}
	slices.Sort(kept)
	return findKernel(filepath.Dir(filepath.Dir(kept[len(kept)-1])))
}

// askForKernel returns the package that linux-image-amd64 depends on and its version.
func askForKernel(ctx context.Context) (name, version string, err error) {
	out, err := output(ctx, "", "apt-cache", "show", "--no-all-versions", "linux-image-amd64")
	if err != nil {
		return "", "", fmt.Errorf("find a kernel: %w", err)
	}
	depends := regexp.MustCompile(`(?m)^Depends: (linux-image-\S+)`).FindStringSubmatch(out)
	if depends == nil {
		return "", "", errors.New("find a kernel: linux-image-amd64 names none: run apt-get update")
	}
	out, err = output(ctx, "", "apt-cache", "show", "--no-all-versions", depends[1])
	if err != nil {
		return "", "", fmt.Errorf("find a kernel: %w", err)
	}
	v := regexp.MustCompile(`(?m)^Version: (\S+)`).FindStringSubmatch(out)
	if v == nil {
		return "", "", fmt.Errorf("find a kernel: %s has no version: run apt-get update", depends[1])
	}
	return depends[1], v[1], nil
}

// fetchKernel unpacks a package into dir, which exists only when it is complete.
func fetchKernel(ctx context.Context, name, dir string) error {
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "fetch-")
	if err != nil {
		return fmt.Errorf("fetch kernel: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if _, err := output(ctx, tmp, "apt-get", "download", name); err != nil {
		return fmt.Errorf("fetch kernel: %w", err)
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("fetch kernel: apt-get download %s left %d packages", name, len(debs))
	}
	tree := filepath.Join(tmp, "tree")
	if _, err := output(ctx, tmp, "dpkg-deb", "-x", debs[0], tree); err != nil {
		return fmt.Errorf("fetch kernel: %w", err)
	}
	k, err := findKernel(tree)
	if err != nil {
		return err
	}
	// The package's installation would have made the list of dependencies.
	if _, err := output(ctx, tmp, "/sbin/depmod", "-b", tree, filepath.Base(k.modules)); err != nil {
		return fmt.Errorf("fetch kernel: %w", err)
	}
	if err := os.Rename(tree, dir); err != nil {
		return fmt.Errorf("fetch kernel: %w", err)
	}
	return nil
}

func findKernel(dir string) (kernel, error) {
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return kernel{}, fmt.Errorf("find a kernel: %s holds %d", dir, len(images))
	}
	version := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	return kernel{image: images[0], modules: filepath.Join(dir, "lib", "modules", version)}, nil
}

func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return string(out), nil
}

// lock takes an exclusive lock that other processes honour.
func lock(file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", file, err)
	}
	return func() { _ = f.Close() }, nil
}
