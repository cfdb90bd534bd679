package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// sample is two small layers.
func sample() (tools, binary tree) {
	tools, binary = tree{}, tree{}
	tools.put("/usr/bin/sh", 0o755, []byte("shell"))
	tools["/bin"] = &file{path: "/bin", kind: tar.TypeSymlink, mode: 0o777, link: "usr/bin"}
	tools["/usr/bin/bash"] = &file{path: "/usr/bin/bash", kind: tar.TypeSymlink, mode: 0o777, link: "/usr/bin/sh"}
	tools.dir("/tmp", 0o1777)
	tools.parents()
	binary.put("/usr/bin/strata", 0o755, bytes.Repeat([]byte("strata"), 1000))
	binary.parents()
	return tools, binary
}

func sampleOptions(t *testing.T) options {
	return options{
		name: reference("strata", "1.2+x"), version: "1.2+x", revision: "abc", arch: "amd64",
		created: time.Unix(1_700_000_000, 0).UTC(), out: filepath.Join(t.TempDir(), "sub", "image.tar"),
	}
}

// archiveFiles reads an archive, and checks how it is packed.
func archiveFiles(t *testing.T, path string) map[string][]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(time.Unix(0, 0)) || h.Uid != 0 || h.Gid != 0 || h.Uname != "" {
			t.Errorf("%s: of %v, owned by %d %d %q", h.Name, h.ModTime, h.Uid, h.Gid, h.Uname)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func decode[T any](t *testing.T, data []byte) (v T) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return v
}

// resolve returns what a descriptor points to, and checks size and sum.
func resolve(t *testing.T, files map[string][]byte, d descriptor) []byte {
	t.Helper()
	b, ok := files["blobs/"+strings.Replace(d.Digest, ":", "/", 1)]
	sum := sha256.Sum256(b)
	if !ok || d.Digest != "sha256:"+hex.EncodeToString(sum[:]) || d.Size != int64(len(b)) {
		t.Fatalf("descriptor %+v: %d bytes, sum %x", d, len(b), sum)
	}
	return b
}

// checkArchive verifies everything that a reader of either kind relies on, and returns
// the configuration and the layers, unpacked.
func checkArchive(t *testing.T, files map[string][]byte) (imageConfig, [][]byte) {
	t.Helper()
	layout := decode[map[string]string](t, files["oci-layout"])
	if layout["imageLayoutVersion"] != "1.0.0" {
		t.Errorf("oci-layout: %v", layout)
	}
	top := decode[index](t, files["index.json"])
	if top.SchemaVersion != 2 || len(top.Manifests) != 1 || top.Manifests[0].MediaType != typeManifest {
		t.Fatalf("index.json: %+v", top)
	}
	m := decode[manifest](t, resolve(t, files, top.Manifests[0]))
	cfg := decode[imageConfig](t, resolve(t, files, m.Config))
	if m.SchemaVersion != 2 || m.MediaType != typeManifest || m.Config.MediaType != typeConfig || cfg.OS != "linux" || cfg.RootFS.Type != "layers" {
		t.Errorf("manifest %+v, configuration %+v", m, cfg)
	}
	docker := decode[[]dockerManifest](t, files["manifest.json"])
	if len(docker) != 1 || !bytes.Equal(files[docker[0].Config], resolve(t, files, m.Config)) {
		t.Fatalf("manifest.json: %+v", docker)
	}
	if docker[0].RepoTags[0] != top.Manifests[0].Annotations["io.containerd.image.name"] {
		t.Errorf("docker calls it %v, containerd %v", docker[0].RepoTags, top.Manifests[0].Annotations)
	}
	if len(m.Layers) != len(cfg.RootFS.DiffIDs) || len(m.Layers) != len(cfg.History) || len(m.Layers) != len(docker[0].Layers) {
		t.Fatalf("%d layers, %d sums, %d steps, %d for docker", len(m.Layers), len(cfg.RootFS.DiffIDs), len(cfg.History), len(docker[0].Layers))
	}
	var layers [][]byte
	for i, d := range m.Layers {
		b := resolve(t, files, d)
		if !bytes.Equal(files[docker[0].Layers[i]], b) {
			t.Errorf("docker's layer %d is another one", i)
		}
		if d.MediaType == typeLayer+"+gzip" {
			z, err := gzip.NewReader(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			if b, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		} else if d.MediaType != typeLayer {
			t.Errorf("layer %d is of type %s", i, d.MediaType)
		}
		if got := newBlob(b).digest; got != cfg.RootFS.DiffIDs[i] {
			t.Errorf("layer %d: sum %s, want %s", i, got, cfg.RootFS.DiffIDs[i])
		}
		layers = append(layers, b)
	}
	return cfg, layers
}

func TestArchiveIsValid(t *testing.T) {
	for _, zip := range []bool{false, true} {
		o := sampleOptions(t)
		o.gzip = zip
		tools, binary := sample()
		got, err := writeArchive(o, []pack{{name: "dash", version: "1"}, {name: "libc6", version: "2"}}, tools, binary)
		if err != nil {
			t.Fatal(err)
		}
		files := archiveFiles(t, o.out)
		cfg, layers := checkArchive(t, files)
		if len(layers) != 2 || cfg.Config.Entrypoint[0] != "/usr/bin/strata" || !cfg.Created.Equal(o.created) {
			t.Errorf("%d layers, configuration %+v", len(layers), cfg)
		}
		l := cfg.Config.Labels
		if l["org.opencontainers.image.version"] != "1.2+x" || l["org.opencontainers.image.revision"] != "abc" || l["dev.strata.packages"] != "dash=1 libc6=2" {
			t.Errorf("labels %v", l)
		}
		top := decode[index](t, files["index.json"]).Manifests[0]
		if top.Digest != got.digest || top.Annotations["org.opencontainers.image.ref.name"] != "1.2_x" {
			t.Errorf("%+v, digest %s was told", top, got.digest)
		}
	}
}

// The same files give the same bytes, in whatever order they come.
func TestArchiveIsReproducible(t *testing.T) {
	var all [][]byte
	for range 3 {
		o := sampleOptions(t)
		tools, binary := sample()
		// Another map has another order.
		again := tree{}
		for _, p := range slices.Backward(slices.Sorted(maps.Keys(tools))) {
			again[p] = tools[p]
		}
		if _, err := writeArchive(o, nil, again, binary); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(o.out)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	if !bytes.Equal(all[0], all[1]) || !bytes.Equal(all[0], all[2]) {
		t.Error("three builds differ")
	}
	// A new binary leaves the other layer as it is.
	tools, binary := sample()
	binary.put("/usr/bin/strata", 0o755, []byte("new"))
	files, _, err := image(sampleOptions(t), nil, tools, binary)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := tools.pack()
	if err != nil {
		t.Fatal(err)
	}
	if files[newBlob(packed).path()] == nil || !bytes.Contains(all[0], packed) {
		t.Error("the layer of programs changed")
	}
}

// A failed build leaves the archive of the last one.
func TestArchiveStaysWhenWritingFails(t *testing.T) {
	o := sampleOptions(t)
	tools, binary := sample()
	if _, err := writeArchive(o, nil, tools, binary); err != nil {
		t.Fatal(err)
	}
	tools["/x"] = &file{path: "/x", kind: tar.TypeSymlink, data: []byte("links hold no data")}
	if _, err := writeArchive(o, nil, tools, binary); err == nil {
		t.Fatal("wrote a layer that cannot be")
	}
	checkArchive(t, archiveFiles(t, o.out))
	left, err := os.ReadDir(filepath.Dir(o.out))
	if err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}

func TestReference(t *testing.T) {
	for _, c := range [][3]string{
		{"strata", "1", "docker.io/library/strata:1"},
		{"strata:x", "1", "docker.io/library/strata:x"},
		{"me/strata", "1+2", "docker.io/me/strata:1_2"},
		{"localhost/strata", "1", "localhost/strata:1"},
		{"registry.example:5000/strata", "1", "registry.example:5000/strata:1"},
		{"registry.example:5000/strata:2", "1", "registry.example:5000/strata:2"},
	} {
		if got := reference(c[0], c[1]); got != c[2] {
			t.Errorf("%s of version %s is %s, want %s", c[0], c[1], got, c[2])
		}
	}
}

// The Dockerfile says of the image what an archive says.
func TestDockerfileAgrees(t *testing.T) {
	b, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, last, _ := strings.Cut(string(b), "FROM scratch\n")
	o := sampleOptions(t)
	o.version, o.revision, o.created = "${VERSION}", "${REVISION}", time.Time{}
	tools, binary := sample()
	files, _, err := image(o, nil, tools, binary)
	if err != nil {
		t.Fatal(err)
	}
	m := decode[[]dockerManifest](t, files["manifest.json"])
	cfg := decode[imageConfig](t, files[m[0].Config]).Config
	entry, err := json.Marshal(cfg.Entrypoint)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"ENV " + strings.Join(cfg.Env, " "), "STOPSIGNAL " + cfg.StopSignal, "ENTRYPOINT " + string(entry)}
	for k, v := range cfg.Labels {
		switch k {
		case "dev.strata.packages": // not known before the build
			continue
		case "org.opencontainers.image.created":
			v = "${CREATED}"
		}
		want = append(want, k+`="`+v+`"`)
	}
	for _, w := range want {
		if !strings.Contains(last, w) {
			t.Errorf("the Dockerfile has no %s", w)
		}
	}
}

func TestRootHasModesAndLinks(t *testing.T) {
	dir := t.TempDir()
	tools, binary := sample()
	if err := writeRoot(dir, tools, binary); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "tools/bin/bash")); err != nil || string(b) != "shell" {
		t.Errorf("through two links: %q, %v", b, err)
	}
	if i, err := os.Stat(filepath.Join(dir, "tools/tmp")); err != nil || i.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Errorf("tmp: %v, %v", i, err)
	}
	if i, err := os.Stat(filepath.Join(dir, "strata/usr/bin/strata")); err != nil || i.Mode() != 0o755 {
		t.Errorf("strata: %v, %v", i, err)
	}
	if err := writeRoot(dir, tools, binary); !errors.Is(err, os.ErrExist) {
		t.Errorf("wrote into what is there: %v", err)
	}
}
