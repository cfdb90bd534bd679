package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// open returns the files of a tar.
func open(t *testing.T, r io.Reader) (map[string]string, map[string]*tar.Header) {
	t.Helper()
	files, headers := map[string]string{}, map[string]*tar.Header{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return files, headers
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name], headers[h.Name] = string(content), h
	}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	img := Image{Names: []string{"example.org/a:1", "example.org/b:2"}, Entrypoint: []string{"/bin/p"}, Files: map[string]File{
		"bin/p": {Host: program}, "bin/q": {Link: "p"}, "/etc/c": {Content: "text"}, "tmp": {Mode: 0o777},
	}}
	archive := filepath.Join(dir, "image.tar")
	if err := Write(archive, img); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	files, _ := open(t, bytes.NewReader(content))
	blob := func(digest string) string { return files["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")] }
	var index struct{ Manifests []descriptor }
	decode(t, files["index.json"], &index)
	if len(index.Manifests) != 2 || index.Manifests[1].Annotations["io.containerd.image.name"] != "example.org/b:2" {
		t.Fatalf("index: %s", files["index.json"])
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	decode(t, blob(index.Manifests[0].Digest), &manifest)
	var config struct {
		Config struct{ Entrypoint []string }
		Rootfs struct {
			IDs []string `json:"diff_ids"`
		}
	}
	decode(t, blob(manifest.Config.Digest), &config)
	layer := blob(manifest.Layers[0].Digest)
	if config.Config.Entrypoint[0] != "/bin/p" || config.Rootfs.IDs[0] != digest([]byte(layer)) {
		t.Errorf("config: %+v", config)
	}
	in, headers := open(t, strings.NewReader(layer))
	if in["bin/p"] != "binary" || headers["bin/p"].Mode != 0o755 || headers["bin/q"].Linkname != "p" ||
		in["etc/c"] != "text" || headers["tmp/"].Mode != 0o777 || headers["bin/"] == nil {
		t.Errorf("layer: %v %v", in, headers)
	}
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
}

func TestWriteLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	err := Write(filepath.Join(dir, "image.tar"), Image{Files: map[string]File{"x": {Host: filepath.Join(dir, "none")}}})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want that the file is missing", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// What Tree writes is what an image would have.
func TestTree(t *testing.T) {
	dir := t.TempDir()
	err := Tree(dir, map[string]File{"a/b": {Content: "x", Mode: 0o700}, "a/c": {Link: "b"}, "d": {}})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "a/b"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("a/b: %v %v", info, err)
	}
	if to, err := os.Readlink(filepath.Join(dir, "a/c")); to != "b" || err != nil {
		t.Errorf("a/c: %s %v", to, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "d")); err != nil || !info.IsDir() {
		t.Errorf("d: %v %v", info, err)
	}
}
