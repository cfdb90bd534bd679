package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/strata-csi/strata/test/e2e/process"
)

// kernel is Debian's, unpacked.
type kernel struct {
	image   string // vmlinuz
	modules string // the folder with modules.dep
}

// findKernel returns the newest kernel in the cache that the guests of test/vm use too,
// or fetches what linux-image-amd64 stands for from the machine's Debian mirror.
func findKernel(ctx context.Context) (kernel, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return kernel{}, fmt.Errorf("find kernel: %w", err)
	}
	cache := filepath.Join(base, "strata", "kernel")
	kept, err := filepath.Glob(filepath.Join(cache, "linux-image-*", "boot", "vmlinuz-*"))
	if err != nil {
		return kernel{}, fmt.Errorf("find kernel: %w", err)
	}
	if len(kept) == 0 {
		if err := fetchKernel(ctx, cache); err != nil {
			return kernel{}, fmt.Errorf("fetch kernel: %w", err)
		}
		return findKernel(ctx)
	}
	slices.Sort(kept)
	image := kept[len(kept)-1]
	version := strings.TrimPrefix(filepath.Base(image), "vmlinuz-")
	return kernel{image: image, modules: filepath.Join(filepath.Dir(filepath.Dir(image)), "lib", "modules", version)}, nil
}

// fetchKernel unpacks the package into the cache, where it appears when complete.
func fetchKernel(ctx context.Context, cache string) error {
	out, err := process.Run(ctx, "apt-cache", "show", "--no-all-versions", "linux-image-amd64")
	if err != nil {
		return err
	}
	depends := regexp.MustCompile(`(?m)^Depends: (linux-image-\S+) \(= ([^)\s]+)\)`).FindStringSubmatch(out)
	if depends == nil {
		return errors.New("linux-image-amd64 names no kernel: run apt-get update")
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	const script = `cd "$1" && apt-get download "$2" && dpkg-deb -x ./*.deb tree && depmod -b tree "${2#linux-image-}"`
	if _, err := process.Run(ctx, "sh", "-c", script, "sh", tmp, depends[1]); err != nil {
		return err
	}
	return os.Rename(filepath.Join(tmp, "tree"), filepath.Join(cache, depends[1]+"_"+depends[2]))
}

// closure returns the files of modules and of all that they need, below the folder of
// modules, in the order in which they can be loaded. What is built in needs no file.
func (k kernel) closure(names ...string) ([]string, error) {
	list, err := os.ReadFile(filepath.Join(k.modules, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("read modules: %w", err)
	}
	builtin, err := os.ReadFile(filepath.Join(k.modules, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("read modules: %w", err)
	}
	files := map[string][]string{} // name → the deepest need first, itself last
	for line := range strings.Lines(string(list)) {
		file, needs, _ := strings.Cut(strings.TrimSpace(line), ":")
		order := strings.Fields(needs)
		slices.Reverse(order)
		files[moduleName(file)] = append(order, file)
	}
	for line := range strings.Lines(string(builtin)) {
		files[moduleName(strings.TrimSpace(line))] = nil
	}
	var all []string
	for _, name := range names {
		need, ok := files[moduleName(name)]
		if !ok {
			return nil, fmt.Errorf("module %s is not in %s", name, k.modules)
		}
		for _, file := range need {
			if !slices.Contains(all, file) {
				all = append(all, file)
			}
		}
	}
	return all, nil
}

func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
}
