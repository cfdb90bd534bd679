package main

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

const mib = int64(1) << 20

// tree is the directory tree that the demo's file system is made of.
type tree struct {
	root  string
	bytes int64
	files []string // paths relative to root, of files that can be deleted
}

// goSource reads the directory tree of the Go toolchain's own source.
func goSource(ctx context.Context) (tree, error) {
	out, err := command(ctx, "go", "env", "GOROOT")
	if err != nil {
		return tree{}, err
	}
	t := tree{root: filepath.Join(strings.TrimSpace(out), "src")}
	err = filepath.WalkDir(t.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		// What the file takes in blocks.
		t.bytes += (info.Size() + block - 1) / block * block
		rel, err := filepath.Rel(t.root, path)
		if err == nil && !strings.ContainsAny(rel, ` "`) {
			t.files = append(t.files, rel)
		}
		return err
	})
	return t, err
}

// format makes an ext4 file system of the tree in a raw file, with room to grow, followed by
// a tail of random bytes outside the file system. It gives the size of the file system.
func (t tree) format(ctx context.Context, path string, tail int64, rng *rand.ChaCha8) (int64, error) {
	size := (t.bytes*5/4/(64*mib) + 2) * 64 * mib
	_, err := command(ctx, "mke2fs", "-q", "-t", "ext4", "-b", fmt.Sprint(block), "-d", t.root,
		"-E", "lazy_itable_init=1", path, fmt.Sprintf("%dM", size/mib))
	if err != nil {
		return 0, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b := make([]byte, tail)
	_, _ = rng.Read(b)
	if _, err := f.WriteAt(b, size); err != nil {
		return 0, err
	}
	return size, f.Close()
}

// change makes a generation of the file system in image: a directory, a new file of 2 MiB,
// a copy of real source, forty real files deleted, and the blocks they had discarded.
func (t *tree) change(ctx context.Context, image string, generation int, scratch string, rng *rand.Rand, noise *rand.ChaCha8) error {
	fresh := filepath.Join(scratch, "fresh")
	b := make([]byte, 2*mib)
	_, _ = noise.Read(b)
	if err := os.WriteFile(fresh, b, 0o600); err != nil {
		return err
	}
	dir := fmt.Sprintf("/generation-%02d", generation)
	script := []string{"mkdir " + dir, "write " + fresh + " " + dir + "/random"}
	for range 40 {
		i := rng.IntN(len(t.files))
		victim := t.files[i]
		t.files[i] = t.files[len(t.files)-1]
		t.files = t.files[:len(t.files)-1]
		script = append(script, "rm /"+victim)
	}
	keeper := t.files[rng.IntN(len(t.files))]
	script = append(script, "write "+filepath.Join(t.root, keeper)+" "+dir+"/copy")
	commands := filepath.Join(scratch, "debugfs.commands")
	if err := os.WriteFile(commands, []byte(strings.Join(script, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	if _, err := command(ctx, "debugfs", "-w", "-f", commands, image); err != nil {
		return err
	}
	return discardFree(ctx, image)
}

// discardFree gives back the free blocks of the file system in a raw file.
func discardFree(ctx context.Context, image string) error {
	_, err := command(ctx, "e2fsck", "-fy", "-E", "discard", image)
	return err
}
