package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

const block = 4096

// reference is what every generation must look like, kept outside strata and never read
// from it: the first image whole, and for each generation what changed.
type reference struct {
	dir  string
	base string // generation 0, never changed
	work string // the newest generation, which the file system tools change
	prev string // the generation before it
	seen string // the generation that at was last asked for
	now  int    // which that is; -1 before the first
}

func newReference(ctx context.Context, dir, base string) (*reference, error) {
	r := &reference{
		dir: dir, base: base, now: -1,
		work: filepath.Join(dir, "work.img"), prev: filepath.Join(dir, "prev.img"), seen: filepath.Join(dir, "seen.img"),
	}
	for _, f := range []string{r.work, r.prev} {
		if err := copyFile(ctx, base, f); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *reference) delta(generation int) string {
	return filepath.Join(r.dir, fmt.Sprintf("delta-%02d", generation))
}

// commit finds what changed in work, keeps it as a generation's delta and tells how many
// bytes were written and how many became zero.
func (r *reference) commit(generation int) (data, zero int64, err error) {
	work, err := os.Open(r.work)
	if err != nil {
		return 0, 0, err
	}
	defer work.Close()
	prev, err := os.OpenFile(r.prev, os.O_RDWR, 0)
	if err != nil {
		return 0, 0, err
	}
	defer prev.Close()
	out, err := os.Create(r.delta(generation))
	if err != nil {
		return 0, 0, err
	}
	defer out.Close()
	data, zero, err = diff(work, prev, out)
	if err != nil {
		return 0, 0, fmt.Errorf("delta of generation %d: %w", generation, err)
	}
	return data, zero, out.Close()
}

// diff writes to out what makes prev equal to work, in the form that apply.py reads, and does
// so to prev.
func diff(work, prev *os.File, out io.Writer) (data, zero int64, err error) {
	const window = 1 << 20
	a, b, zeroes := make([]byte, window), make([]byte, window), make([]byte, block)
	for off := int64(0); ; {
		n, err := io.ReadFull(work, a)
		if n == 0 {
			if err == io.EOF {
				return data, zero, nil
			}
			return data, zero, err
		}
		if _, err := prev.ReadAt(b[:n], off); err != nil {
			return data, zero, err
		}
		for i := 0; i < n; i += block {
			now := a[i : i+block]
			if bytes.Equal(now, b[i:i+block]) {
				continue
			}
			kind := byte('D')
			if bytes.Equal(now, zeroes) {
				kind = 'Z'
				zero += block
			} else {
				data += block
			}
			if err := record(out, off+int64(i), kind, now); err != nil {
				return data, zero, err
			}
			if _, err := prev.WriteAt(now, off+int64(i)); err != nil {
				return data, zero, err
			}
		}
		off += int64(n)
	}
}

func record(out io.Writer, off int64, kind byte, p []byte) error {
	head := binary.BigEndian.AppendUint64(nil, uint64(off))
	head = append(binary.BigEndian.AppendUint64(head, uint64(len(p))), kind)
	if kind == 'D' {
		head = append(head, p...)
	}
	_, err := out.Write(head)
	return err
}

// at gives a file that is what a generation must look like. Generations are asked for in
// rising order; the file is good until the next call.
func (r *reference) at(ctx context.Context, generation int) (string, error) {
	if r.now < 0 {
		if err := copyFile(ctx, r.base, r.seen); err != nil {
			return "", err
		}
		r.now = 0
	}
	for r.now < generation {
		if err := replay(r.delta(r.now+1), r.seen); err != nil {
			return "", fmt.Errorf("reference of generation %d: %w", r.now+1, err)
		}
		r.now++
	}
	return r.seen, nil
}

func replay(delta, image string) error {
	in, err := os.ReadFile(delta)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for len(in) > 0 {
		off, n, kind := int64(binary.BigEndian.Uint64(in)), int64(binary.BigEndian.Uint64(in[8:])), in[16]
		in = in[17:]
		p := make([]byte, n)
		if kind == 'D' {
			copy(p, in)
			in = in[n:]
		}
		if _, err := f.WriteAt(p, off); err != nil {
			return err
		}
	}
	return f.Close()
}

func copyFile(ctx context.Context, from, to string) error {
	_, err := command(ctx, "cp", "--reflink=auto", "--sparse=always", from, to)
	return err
}
