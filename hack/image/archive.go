package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Media types of the OCI image specification.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"
)

// descriptor points to a blob.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// index is index.json.
type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

// manifest joins configuration and layers.
type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Config        descriptor        `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// imageConfig says how the image is run.
type imageConfig struct {
	Created      time.Time `json:"created"`
	Architecture string    `json:"architecture"`
	OS           string    `json:"os"`
	Config       runConfig `json:"config"`
	RootFS       rootFS    `json:"rootfs"`
	History      []history `json:"history"`
}

type runConfig struct {
	Env        []string          `json:"Env"`
	Entrypoint []string          `json:"Entrypoint"`
	WorkingDir string            `json:"WorkingDir"`
	Labels     map[string]string `json:"Labels"`
	StopSignal string            `json:"StopSignal"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type history struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

// dockerManifest is an entry of manifest.json, which docker load reads.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// made tells of the archive: the image's digest, and bytes.
type made struct {
	digest string
	size   int64
}

// labels are those that a container engine shows.
func labels(o options, packs []pack) map[string]string {
	var all []string
	for _, p := range packs {
		all = append(all, p.name+"="+p.version)
	}
	l := map[string]string{
		"org.opencontainers.image.title":         "strata",
		"org.opencontainers.image.description":   "Block volumes with instant snapshots and clones: CSI driver and store",
		"org.opencontainers.image.licenses":      "Apache-2.0",
		"org.opencontainers.image.url":           "https://github.com/strata-csi/strata",
		"org.opencontainers.image.source":        "https://github.com/strata-csi/strata",
		"org.opencontainers.image.documentation": "https://github.com/strata-csi/strata#readme",
		"org.opencontainers.image.vendor":        "strata",
		"org.opencontainers.image.version":       o.version,
		"org.opencontainers.image.created":       o.created.Format(time.RFC3339),
		"dev.strata.packages":                    strings.Join(all, " "),
	}
	if o.revision != "" {
		l["org.opencontainers.image.revision"] = o.revision
	}
	return l
}

// writeArchive writes the image to o.out: whole, or what was there before stays.
func writeArchive(o options, packs []pack, tools, binary tree) (made, error) {
	files, digest, err := image(o, packs, tools, binary)
	if err != nil {
		return made{}, err
	}
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
		return made{}, err
	}
	f, err := os.CreateTemp(filepath.Dir(o.out), filepath.Base(o.out)+".*")
	if err != nil {
		return made{}, err
	}
	err = errors.Join(writeTar(f, files), f.Chmod(0o644))
	size, seekErr := f.Seek(0, io.SeekEnd)
	if err = errors.Join(err, seekErr, f.Close()); err == nil {
		err = os.Rename(f.Name(), o.out)
	}
	if err != nil {
		return made{}, errors.Join(fmt.Errorf("write %s: %w", o.out, err), os.Remove(f.Name()))
	}
	return made{digest: digest, size: size}, nil
}

// image makes the files of the archive, and the digest of the manifest.
func image(o options, packs []pack, tools, binary tree) (map[string][]byte, string, error) {
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	add := func(b blob, mediaType string) descriptor {
		files[b.path()] = b.data
		return descriptor{MediaType: mediaType, Digest: b.digest, Size: int64(len(b.data))}
	}
	marshal := func(v any, mediaType string) (descriptor, error) {
		data, err := json.Marshal(v)
		return add(newBlob(data), mediaType), err
	}
	cfg := imageConfig{Created: o.created, Architecture: o.arch, OS: "linux", RootFS: rootFS{Type: "layers"}, Config: runConfig{
		Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Entrypoint: []string{"/usr/bin/strata"}, WorkingDir: "/", Labels: labels(o, packs), StopSignal: "SIGTERM",
	}}
	m := manifest{SchemaVersion: 2, MediaType: typeManifest}
	docker := dockerManifest{RepoTags: []string{o.name}}
	for _, l := range []struct {
		tree tree
		by   string
	}{{tools, "programs of Debian packages, and what they need"}, {binary, "strata " + o.version}} {
		data, err := l.tree.pack()
		if err != nil {
			return nil, "", err
		}
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, newBlob(data).digest)
		cfg.History = append(cfg.History, history{Created: o.created, CreatedBy: l.by})
		mediaType := typeLayer
		if o.gzip {
			mediaType += "+gzip"
			if data, err = squeeze(data); err != nil {
				return nil, "", fmt.Errorf("compress layer: %w", err)
			}
		}
		b := newBlob(data)
		m.Layers = append(m.Layers, add(b, mediaType))
		docker.Layers = append(docker.Layers, b.path())
	}
	var err error
	if m.Config, err = marshal(cfg, typeConfig); err != nil {
		return nil, "", fmt.Errorf("configuration: %w", err)
	}
	top, err := marshal(m, typeManifest)
	if err != nil {
		return nil, "", fmt.Errorf("manifest: %w", err)
	}
	top.Platform = &platform{Architecture: o.arch, OS: "linux"}
	_, tag, _ := strings.Cut(o.name[strings.LastIndexByte(o.name, '/')+1:], ":")
	top.Annotations = map[string]string{"io.containerd.image.name": o.name, "org.opencontainers.image.ref.name": tag}
	docker.Config = "blobs/" + strings.Replace(m.Config.Digest, ":", "/", 1)
	if files["index.json"], err = json.Marshal(index{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{top}}); err != nil {
		return nil, "", fmt.Errorf("index: %w", err)
	}
	if files["manifest.json"], err = json.Marshal([]dockerManifest{docker}); err != nil {
		return nil, "", fmt.Errorf("manifest for docker: %w", err)
	}
	return files, top.Digest, nil
}

// writeTar writes the files, sorted and as of 1970.
func writeTar(out io.Writer, files map[string][]byte) error {
	w := tar.NewWriter(out)
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	for _, name := range names {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(files[name])), ModTime: time.Unix(0, 0)}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(files[name]); err != nil {
			return err
		}
	}
	return w.Close()
}
