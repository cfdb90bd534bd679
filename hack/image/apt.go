package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// listsAge is how long lists of packages are good without a look at the mirror.
const listsAge = 24 * time.Hour

// apt asks this machine's apt for packages, with lists and archives of its own: the
// machine's are left alone, and no privilege is needed. apt checks signatures and sums.
type apt struct {
	dir  string
	arch string
	log  io.Writer
}

// openApt makes the directory ready, and keeps other processes out of it until close.
func openApt(o options, log io.Writer) (a *apt, closed func(), err error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return nil, nil, errors.New("apt-get is not here; build on Debian 12 or like it, or with a container engine: make image-docker")
	}
	dir := o.cache
	if dir == "" {
		if dir, err = os.UserCacheDir(); err != nil {
			return nil, nil, fmt.Errorf("directory for packages: %w; give -cache", err)
		}
		dir = filepath.Join(dir, "strata", "image")
	}
	if dir, err = filepath.Abs(filepath.Join(dir, o.arch)); err != nil {
		return nil, nil, err
	}
	for _, sub := range []string{"lists/partial", "archives/partial", "none/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, nil, err
		}
	}
	// An empty status means that nothing is installed: apt resolves the whole closure.
	if err := os.WriteFile(filepath.Join(dir, "status"), nil, 0o644); err != nil {
		return nil, nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("lock %s: %w", lock.Name(), err), lock.Close())
	}
	return &apt{dir: dir, arch: o.arch, log: log}, func() { _ = lock.Close() }, nil
}

// run calls apt-get and returns what it prints.
func (a *apt) run(ctx context.Context, args ...string) ([]byte, error) {
	options := []string{
		"-qq", "-y", "--no-install-recommends",
		"-o", "APT::Architecture=" + a.arch, "-o", "APT::Architectures=" + a.arch,
		"-o", "Dir::State=" + a.dir, "-o", "Dir::State::Lists=" + a.dir + "/lists", "-o", "Dir::State::status=" + a.dir + "/status",
		"-o", "Dir::Cache=" + a.dir, "-o", "Dir::Cache::Archives=" + a.dir + "/archives",
		"-o", "Acquire::ForceHash=SHA256", "-o", "APT::Sandbox::User=", "-o", "Debug::NoLocking=1",
		"-o", "APT::Update::Post-Invoke::=true", "-o", "Acquire::Languages=none",
	}
	cmd := exec.CommandContext(ctx, "apt-get", append(options, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("apt-get %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.Bytes(), nil
}

// refresh brings the lists of packages up to date. Without a mirror older ones will do.
func (a *apt) refresh(ctx context.Context, now bool) error {
	stamp := filepath.Join(a.dir, "refreshed")
	info, err := os.Stat(stamp)
	if err == nil && !now && time.Since(info.ModTime()) < listsAge {
		return nil
	}
	if _, updateErr := a.run(ctx, "update", "--error-on=any"); updateErr != nil {
		if err != nil {
			return updateErr
		}
		fmt.Fprintf(a.log, "image: %v; going on with lists of %s\n", updateErr, info.ModTime().Format(time.DateOnly))
		return nil
	}
	return os.WriteFile(stamp, nil, 0o644)
}

// fetch returns the archives of the packages and of all they depend on, in apt's order.
func (a *apt) fetch(ctx context.Context, packages []string) ([]string, error) {
	install := append([]string{"install"}, packages...)
	// Beside archives that are there already, apt would not name them.
	none := "Dir::Cache::Archives=" + a.dir + "/none"
	out, err := a.run(ctx, append([]string{"-o", none, "--print-uris"}, install...)...)
	if err != nil {
		return nil, err
	}
	want, err := parseURIs(out)
	if err != nil {
		return nil, err
	}
	if !a.have(want) {
		fmt.Fprintf(a.log, "image: fetching %d packages\n", len(want))
		if _, err := a.run(ctx, append([]string{"--download-only"}, install...)...); err != nil {
			return nil, err
		}
		if !a.have(want) {
			return nil, fmt.Errorf("apt-get has not brought the packages to %s/archives", a.dir)
		}
	}
	paths := make([]string, len(want))
	for i, w := range want {
		paths[i] = filepath.Join(a.dir, "archives", w.file)
	}
	return paths, nil
}

// archive is a package's file and its sum.
type archive struct{ file, sha256 string }

// parseURIs reads the lines of --print-uris: 'uri' file size SHA256:sum.
func parseURIs(out []byte) ([]archive, error) {
	var all []archive
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) != 4 || !strings.HasPrefix(f[0], "'") {
			return nil, fmt.Errorf("apt-get --print-uris says %q", lines.Text())
		}
		sum, ok := strings.CutPrefix(f[3], "SHA256:")
		if !ok || filepath.Base(f[1]) != f[1] {
			return nil, fmt.Errorf("apt-get --print-uris says %q", lines.Text())
		}
		all = append(all, archive{file: f[1], sha256: sum})
	}
	if len(all) == 0 {
		return nil, errors.New("apt-get --print-uris names no package")
	}
	return all, lines.Err()
}

// have tells whether all are there, and whole.
func (a *apt) have(want []archive) bool {
	for _, w := range want {
		path := filepath.Join(a.dir, "archives", w.file)
		sum, err := fileSum(path)
		if err != nil {
			return false
		}
		if sum != w.sha256 {
			_ = os.Remove(path) // apt would take it for whole by its size
			return false
		}
	}
	return true
}

func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
