// Package image writes container images of one layer as OCI archives, which container
// runtimes import without a registry. It takes files of this machine as they are; there
// is no build step.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
)

// Image describes what an archive holds.
type Image struct {
	// Names under which a runtime will know it, complete: with host, path and tag.
	Names      []string
	Entrypoint []string
	Env        []string
	// Files: path in the image, without a leading slash → content.
	Files map[string]File
}

// File is one of a regular file of the host, a symbolic link, content, or a folder (the
// zero value).
type File struct {
	Host    string // path on this machine; links are followed
	Link    string // target of a symbolic link
	Content string
	Mode    fs.FileMode // of Content and folders; 0: 0644 and 0755
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

const (
	indexType    = "application/vnd.oci.image.index.v1+json"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"
)

// Write writes an archive to file, complete or not at all.
func Write(file string, img Image) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file))
	if err != nil {
		return fmt.Errorf("write image %s: %w", file, err)
	}
	defer func() { _ = os.Remove(tmp.Name()); _ = tmp.Close() }()
	if err := write(tmp, img); err != nil {
		return fmt.Errorf("write image %s: %w", file, err)
	}
	if err := os.Rename(tmp.Name(), file); err != nil {
		return fmt.Errorf("write image %s: %w", file, err)
	}
	return nil
}

func write(w io.Writer, img Image) error {
	layer, err := makeLayer(img.Files)
	if err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Entrypoint": img.Entrypoint, "Env": append([]string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, img.Env...)},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType,
		"config": describe(configType, config), "layers": []descriptor{describe(layerType, layer)},
	})
	if err != nil {
		return err
	}
	var list []descriptor
	for _, name := range img.Names {
		d := describe(manifestType, manifest)
		d.Annotations = map[string]string{"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
		list = append(list, d)
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": list})
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	add(t, "oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	add(t, "index.json", index)
	for _, blob := range [][]byte{config, manifest, layer} {
		add(t, "blobs/sha256/"+strings.TrimPrefix(digest(blob), "sha256:"), blob)
	}
	return t.Close() // tells the first error of all writes
}

func digest(p []byte) string {
	sum := sha256.Sum256(p)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func describe(kind string, p []byte) descriptor {
	return descriptor{MediaType: kind, Digest: digest(p), Size: int64(len(p))}
}

// add leaves its error to the archive's Close.
func add(t *tar.Writer, name string, p []byte) {
	if t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(p)), Format: tar.FormatPAX}) == nil {
		_, _ = t.Write(p)
	}
}

// makeLayer returns the layer's tar: the same files make the same bytes.
func makeLayer(files map[string]File) ([]byte, error) {
	var buf bytes.Buffer
	t := tar.NewWriter(&buf)
	all := map[string]File{}
	for name, f := range files {
		name = strings.Trim(path.Clean("/"+name), "/")
		all[name] = f
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := all[dir]; !ok {
				all[dir] = File{}
			}
		}
	}
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if err := addFile(t, name, all[name]); err != nil {
			return nil, err
		}
	}
	if err := t.Close(); err != nil {
		return nil, fmt.Errorf("close layer: %w", err)
	}
	return buf.Bytes(), nil
}

func addFile(t *tar.Writer, name string, f File) error {
	h := &tar.Header{Name: name, Mode: int64(f.Mode), Format: tar.FormatPAX}
	var content []byte
	switch {
	case f.Host != "":
		var err error
		if content, err = os.ReadFile(f.Host); err != nil {
			return err
		}
		info, err := os.Stat(f.Host)
		if err != nil {
			return err
		}
		h.Typeflag, h.Mode, h.Size = tar.TypeReg, int64(info.Mode().Perm()), int64(len(content))
	case f.Link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
	case f.Content != "":
		content = []byte(f.Content)
		h.Typeflag, h.Size = tar.TypeReg, int64(len(content))
		if h.Mode == 0 {
			h.Mode = 0o644
		}
	default:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		if h.Mode == 0 {
			h.Mode = 0o755
		}
	}
	if err := t.WriteHeader(h); err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	if _, err := t.Write(content); err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	return nil
}
