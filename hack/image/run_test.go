package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// imageEnv names the archive that TestImage looks at.
const imageEnv = "STRATA_IMAGE"

// container is the root file system of the image, unpacked.
type container struct {
	*testing.T
	root string
	cfg  imageConfig
}

// unpackImage makes a root of the layers, as a container engine does.
func unpackImage(t *testing.T, path string) *container {
	t.Helper()
	cfg, layers := checkArchive(t, archiveFiles(t, path))
	c := &container{T: t, root: t.TempDir(), cfg: cfg}
	for _, l := range layers {
		r := tar.NewReader(bytes.NewReader(l))
		for {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if h.Mode&0o6000 != 0 {
				t.Errorf("%s is of mode %o", h.Name, h.Mode)
			}
			if err := c.extract(h, r); err != nil {
				t.Fatal(err)
			}
		}
	}
	return c
}

func (c *container) extract(h *tar.Header, r io.Reader) error {
	to := filepath.Join(c.root, filepath.FromSlash(h.Name))
	switch h.Typeflag {
	case tar.TypeDir:
		if err := os.Mkdir(to, 0o755); err != nil && !os.IsExist(err) {
			return err
		}
		return os.Chmod(to, os.FileMode(h.Mode&0o777))
	case tar.TypeSymlink:
		return os.Symlink(h.Linkname, to)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, os.FileMode(h.Mode))
}

// run runs a program in the root, with the image's environment.
func (c *container) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/usr/bin/env", args...)
	cmd.Dir, cmd.Env = "/", c.cfg.Config.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: c.root}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// want runs a program and looks for a text in what it says.
func (c *container) want(text string, args ...string) {
	c.Helper()
	if out, err := c.run(args...); err != nil || !strings.Contains(out, text) {
		c.Errorf("%s: %v: %q, want %q", strings.Join(args, " "), err, out, text)
	}
}

// TestImage runs the programs of the image that make image has built.
func TestImage(t *testing.T) {
	path := os.Getenv(imageEnv)
	if path == "" {
		t.Skip(imageEnv + " names no archive; make image-test does")
	}
	if os.Geteuid() != 0 {
		t.Skip("a root file system is entered as root only")
	}
	c := unpackImage(t, path)
	proc := filepath.Join(c.root, "proc") // /etc/mtab leads there
	if err := syscall.Mount("proc", proc, "proc", 0, ""); err != nil {
		t.Fatalf("mount %s: %v", proc, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(proc, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	t.Run("versions", func(t *testing.T) {
		v := c.cfg.Config.Labels["org.opencontainers.image.version"]
		for _, p := range [][]string{
			{v, c.cfg.Config.Entrypoint[0], "version"}, {v, "strata", "version"},
			{"mke2fs", "mkfs.ext4", "-V"}, {"mke2fs", "mkfs.ext3", "-V"}, {"e2fsck", "fsck.ext4", "-V"},
			{"e2fsck", "fsck.ext3", "-V"}, {"dumpe2fs", "dumpe2fs", "-V"}, {"tune2fs", "sh", "-c", "tune2fs 2>&1 || true"},
			{"resize2fs", "sh", "-c", "resize2fs 2>&1 || true"},
			{"mkfs.xfs version", "mkfs.xfs", "-V"}, {"xfs_growfs version", "xfs_growfs", "-V"}, {"xfs_info version", "xfs_info", "-V"},
			{"xfs_repair version", "xfs_repair", "-V"}, {"xfs_io version", "xfs_io", "-V"}, {"xfs_admin version", "xfs_admin", "-V"},
			{"mount from util-linux", "mount", "--version"}, {"umount from util-linux", "umount", "--version"},
			{"blkid from util-linux", "blkid", "-V"}, {"blockdev from util-linux", "blockdev", "--version"},
			{"fsck from util-linux", "fsck", "--version"}, {"findmnt from", "findmnt", "--version"}, {"lsblk from", "lsblk", "--version"},
			{"fstrim from", "fstrim", "--version"}, {"fsfreeze from", "fsfreeze", "--version"}, {"nsenter from", "nsenter", "--version"},
			{"wipefs from", "wipefs", "--version"}, {"kmod version", "modprobe", "--version"}, {"coreutils", "dd", "--version"},
			{"", "sync"}, {"grep", "grep", "--version"}, {"cmp", "cmp", "--version"},
		} {
			c.want(p[0], p[1:]...)
		}
	})
	t.Run("file systems", c.fileSystems)
	t.Run("record", c.record)
}

// fileSystems are made, told, grown and checked with what is in the image.
func (c *container) fileSystems(*testing.T) {
	for fs, mkfs := range map[string][]string{
		"ext4": {"mkfs.ext4", "-q", "-F"}, "ext3": {"mkfs.ext3", "-q", "-F"}, "xfs": {"mkfs.xfs", "-q", "-f"},
	} {
		dev := "/tmp/" + fs
		c.want("", "truncate", "-s", "320M", dev)
		c.want("", append(mkfs, dev)...)
		c.want(`TYPE="`+fs+`"`, "blkid", "-p", dev)
		if fs == "xfs" {
			c.want("", "xfs_repair", "-n", dev)
			continue
		}
		c.want("", "fsck."+fs, "-p", dev)
		c.want("", "truncate", "-s", "512M", dev)
		c.want("", "e2fsck", "-fp", dev)
		c.want("is now", "resize2fs", dev)
		c.want("Block count:              524288\n", "dumpe2fs", "-h", dev)
	}
}

// record is what the image says of itself.
func (c *container) record(t *testing.T) {
	c.want(`PRETTY_NAME=`, "cat", "/etc/os-release")
	c.want("uid=65532(nonroot)", "sh", "-c", "id nonroot")
	c.want("Apache License", "head", "-3", "/usr/share/doc/strata/LICENSE")
	packs := strings.Fields(c.cfg.Config.Labels["dev.strata.packages"])
	if len(packs) < 10 {
		t.Fatalf("only packages %v", packs)
	}
	sbom, err := os.ReadFile(filepath.Join(c.root, sbomPath))
	if err != nil {
		t.Fatal(err)
	}
	doc := decode[spdx](t, sbom)
	for _, p := range packs {
		name, version, _ := strings.Cut(p, "=")
		c.want("Version: "+version+"\n", "cat", "/var/lib/dpkg/status.d/"+name)
		c.want("", "test", "-s", "/usr/share/doc/"+name+"/copyright")
		if !strings.Contains(string(sbom), "pkg:deb/debian/"+name+"@"+version+"?arch=") {
			t.Errorf("the list of parts has no %s %s", name, version)
		}
	}
	if len(doc.Packages) < len(packs)+10 || !strings.Contains(string(sbom), "pkg:golang/google.golang.org/grpc@") {
		t.Errorf("the list of parts has %d entries", len(doc.Packages))
	}
}
