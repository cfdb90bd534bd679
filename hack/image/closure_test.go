package main

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// debian makes a tree of packages from tar headers.
func debian(t *testing.T, all tree, pkg string, headers ...tar.Header) {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		body := h.PAXRecords["body"]
		h.PAXRecords, h.Size = nil, int64(len(body))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := all.add(pkg, tar.NewReader(&out)); err != nil {
		t.Fatal(err)
	}
}

func regular(name, body string, mode int64) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, PAXRecords: map[string]string{"body": body}}
}

func link(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
}

func TestOnlyWhatIsNeededIsKept(t *testing.T) {
	all := tree{}
	debian(t, all, "tool",
		tar.Header{Typeflag: tar.TypeDir, Name: "./sbin/", Mode: 0o755},
		regular("./sbin/tool", "#! /bin/sh -f\n", 0o4755),
		regular("./sbin/other", "#!/usr/bin/python3\n", 0o755),
		link("./usr/bin/alias", "../../sbin/tool"),
		regular("./usr/share/man/man8/tool.8", "manual", 0o644),
		regular("./usr/share/doc/tool/copyright", "free", 0o644),
		regular("./usr/share/doc/tool/examples/copyright", "example", 0o644),
		regular("./etc/tool.conf", "settings", 0o644))
	debian(t, all, "shell",
		regular("./bin/dash", "binary", 0o755),
		link("./bin/sh", "dash"),
		tar.Header{Typeflag: tar.TypeLink, Name: "./usr/bin/second", Linkname: "./bin/dash", Mode: 0o755},
		link("./usr/share/doc/shell", "tool"))
	debian(t, all, "unused", regular("./usr/bin/unused", "", 0o755))

	want := []part{{pkg: "tool", programs: []string{"alias"}, trees: []string{"/etc/tool.conf"}}, {pkg: "shell", programs: []string{"second"}}}
	packs := []pack{
		{name: "unused", version: "1"}, {name: "tool", version: "2", control: "Package: tool\n"}, {name: "shell", version: "3"},
	}
	got, from, err := compose(all, packs, want, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	for p, f := range map[string]string{
		"/usr/bin/alias": "-> /usr/sbin/tool", "/usr/sbin/tool": "#! /bin/sh -f\n", "/usr/bin/sh": "-> /usr/bin/dash",
		"/usr/bin/dash": "binary", "/usr/bin/second": "-> /usr/bin/dash", "/etc/tool.conf": "settings",
		"/bin": "-> usr/bin", "/usr/share/doc/tool/copyright": "free", "/usr/share/doc/shell/copyright": "free",
		"/var/lib/dpkg/status.d/tool": "Package: tool\n",
	} {
		have := got[p]
		if have == nil {
			t.Errorf("%s is not there", p)
		} else if text := string(have.data); text != f && "-> "+have.link != f {
			t.Errorf("%s: %q, link %q, want %q", p, text, have.link, f)
		}
	}
	for _, p := range []string{"/usr/sbin/other", "/usr/bin/unused", "/usr/share/man/man8/tool.8", "/usr/share/doc/tool/examples/copyright", "/var/lib/dpkg/status.d/unused"} {
		if got[p] != nil {
			t.Errorf("%s is there", p)
		}
	}
	if mode := got["/usr/sbin/tool"].mode; mode != 0o755 {
		t.Errorf("a set-user-id program keeps mode %o", mode)
	}
	if len(from) != 2 || from[0].name != "shell" || from[1].name != "tool" {
		t.Errorf("made of %v", from)
	}
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	all := tree{}
	debian(t, all, "tool", regular("bin/tool", "#!/usr/bin/perl\n", 0o755), regular("bin/broken", "\x7fELF", 0o755), link("bin/lost", "nowhere"))
	for want, p := range map[string]part{
		"package tool has no program mkfs":                      {pkg: "tool", programs: []string{"mkfs"}},
		"package tool has no /etc/tool.conf":                    {pkg: "tool", trees: []string{"/etc/tool.conf"}},
		"package tool has no libtool.so.1":                      {pkg: "tool", libs: []string{"libtool.so.1"}},
		"/usr/bin/tool wants /usr/bin/perl, which is in no pac": {pkg: "tool", programs: []string{"tool"}},
		"/usr/bin/broken: ":                                     {pkg: "tool", programs: []string{"broken"}},
		"/usr/bin/nowhere is in no package":                     {pkg: "tool", programs: []string{"lost"}},
	} {
		if _, err := needed(all, []part{p}, "amd64"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", p, err, want)
		}
	}
}

// Libraries are found as the loader finds them, with those that they need in turn.
func TestLibrariesComeAlong(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("libraries are made here, and there is no C compiler")
	}
	dir := t.TempDir()
	build := func(out, source string, args ...string) string {
		cmd := exec.Command(gcc, append([]string{"-x", "c", "-", "-x", "none", "-nostdlib", "-o", out}, args...)...)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(source)
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		b, err := os.ReadFile(filepath.Join(dir, out))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	inner := build("libinner.so", "int inner(void){return 1;}", "-shared", "-fPIC", "-Wl,-soname,libinner.so")
	outer := build("libouter.so", "int inner(void); int outer(void){return inner();}", "-shared", "-fPIC", "-Wl,-soname,libouter.so", "./libinner.so", "-Wl,-rpath,$ORIGIN/own")
	main := build("main", "int outer(void); void _start(void){outer();}", "./libouter.so", "-Wl,-rpath-link,.", "-Wl,--allow-shlib-undefined")
	all := tree{}
	debian(t, all, "p", regular("bin/main", main, 0o755), regular("usr/lib/libouter.so", outer, 0o644),
		regular("usr/lib/own/libinner.so", inner, 0o644), regular("lib64/ld-linux-x86-64.so.2", "loader", 0o755))
	arch := map[bool]string{true: "amd64", false: "arm64"}[strings.Contains(main, "ld-linux-x86-64")]
	if arch == "arm64" {
		t.Skip("written for the loader of amd64, which has another name here")
	}
	got, err := needed(all, []part{{pkg: "p", programs: []string{"main"}}}, arch)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/usr/bin/main", "/usr/lib/libouter.so", "/usr/lib/own/libinner.so", "/usr/lib64/ld-linux-x86-64.so.2"}
	if !slices.Equal(got.paths(), want) {
		t.Errorf("kept %v, want %v", got.paths(), want)
	}
	if _, err := needed(all, []part{{pkg: "p", programs: []string{"main"}}}, "arm64"); err == nil || !strings.Contains(err.Error(), "EM_AARCH64") {
		t.Errorf("for another machine: %v", err)
	}
	delete(all, "/usr/lib/own/libinner.so")
	if _, err := needed(all, []part{{pkg: "p", programs: []string{"main"}}}, arch); err == nil || !strings.Contains(err.Error(), "libouter.so wants libinner.so") {
		t.Errorf("without a library: %v", err)
	}
}

func TestApt(t *testing.T) {
	got, err := parseURIs([]byte("'http://x/a%2b1.deb' a+1.deb 12 SHA256:ab\n'http://x/b.deb' b.deb 3 SHA256:cd\n"))
	if err != nil || len(got) != 2 || got[0] != (archive{"a+1.deb", "ab"}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "E: something\n", "'u' a.deb 1 MD5Sum:ab\n", "'u' ../a.deb 1 SHA256:ab\n"} {
		if got, err := parseURIs([]byte(bad)); err == nil {
			t.Errorf("%q is %v", bad, got)
		}
	}
	// An archive that was cut short is fetched again.
	a := &apt{dir: t.TempDir()}
	path := filepath.Join(a.dir, "archives", "a.deb")
	if err := errorsOf(os.Mkdir(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("half"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if a.have([]archive{{"a.deb", newBlob([]byte("whole")).digest[len("sha256:"):]}}) {
		t.Error("took half of an archive for the whole")
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("left it where apt would take it: %v", err)
	}
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
