package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// blob is a piece of the archive, named by its sum.
type blob struct {
	data   []byte
	digest string
}

func newBlob(data []byte) blob {
	sum := sha256.Sum256(data)
	return blob{data: data, digest: "sha256:" + hex.EncodeToString(sum[:])}
}

// path of the blob in the archive.
func (b blob) path() string { return "blobs/" + strings.Replace(b.digest, ":", "/", 1) }

// pack writes the tree as a layer: sorted, owned by root, as of 1970.
func (t tree) pack() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, p := range t.paths() {
		f := t[p]
		h := &tar.Header{
			Typeflag: f.kind, Name: strings.TrimPrefix(p, "/"), Mode: int64(f.mode), Size: int64(len(f.data)),
			ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
		}
		switch f.kind {
		case tar.TypeDir:
			h.Name += "/"
		case tar.TypeSymlink:
			h.Linkname = short(f)
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("layer: %s: %w", p, err)
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, fmt.Errorf("layer: %s: %w", p, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	return out.Bytes(), nil
}

// short is what a link says: a bare name if that is in the same directory.
func short(f *file) string {
	if path.Dir(f.link) == path.Dir(f.path) && path.IsAbs(f.link) {
		return path.Base(f.link)
	}
	return f.link
}

// squeeze compresses, with nothing in the header that changes.
func squeeze(data []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// writeRoot writes the files of the layers to dir/tools and dir/strata, which must not be
// there. Who runs it owns them.
func writeRoot(dir string, tools, binary tree) error {
	for name, t := range map[string]tree{"tools": tools, "strata": binary} {
		if err := t.write(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("write layer %s: %w", name, err)
		}
	}
	return nil
}

// write makes the files of the tree below dir.
func (t tree) write(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	paths := t.paths()
	for _, p := range paths {
		f, to := t[p], filepath.Join(dir, filepath.FromSlash(p))
		var err error
		switch f.kind {
		case tar.TypeDir:
			err = os.Mkdir(to, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(short(f), to)
		default:
			err = writeFile(to, f.data)
		}
		if err != nil {
			return err
		}
	}
	// Modes last, and those of directories after what is in them: one may forbid writing.
	for i := len(paths) - 1; i >= 0; i-- {
		f := t[paths[i]]
		if f.kind == tar.TypeSymlink {
			continue
		}
		mode := os.FileMode(f.mode & 0o777)
		if f.mode&0o1000 != 0 {
			mode |= os.ModeSticky
		}
		if err := os.Chmod(filepath.Join(dir, filepath.FromSlash(f.path)), mode); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(to string, data []byte) error {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, bytes.NewReader(data)); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
