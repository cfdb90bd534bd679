package stage_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/store"
)

// The tests of this file mount file systems of loop devices for real.

func real(t *testing.T) *rig {
	t.Helper()
	needRoot(t)
	r := newRig(t, true)
	return r
}

// end takes everything back, also when a test has failed.
func (r *rig) end() {
	for _, v := range r.svc.List() {
		for _, target := range v.Targets {
			r.must(r.svc.Unpublish(r.t.Context(), v.Volume, target.Path))
		}
		r.must(r.svc.Unstage(r.t.Context(), v.Volume, v.Path))
	}
	r.clean("at the end")
}

// mayGrow tells whether the process has CAP_SYS_RESOURCE.
func mayGrow(t *testing.T) bool {
	t.Helper()
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	if err := unix.Capget(&h, &d[0]); err != nil {
		t.Fatal(err)
	}
	return d[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// size of what is mounted at a path, in bytes.
func size(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Blocks) * st.Bsize
}

// syncFS writes back what is mounted at a path.
func syncFS(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
}

// cloneOf copies the content of an image to a larger one, as a restore does.
func (r *rig) cloneOf(from, to int, bytes int64) store.ID {
	r.t.Helper()
	r.run("cp", "--sparse=always", r.Store.File(imageID(from)), r.Store.File(imageID(to)))
	format := r.Store.Info(imageID(from)).Format
	return r.image(to, bytes, func(i *store.Info) { i.Parent, i.Format = imageID(from), format })
}

// From the first mount over a larger clone beside its source to an expansion in use.
func TestRealFileSystems(t *testing.T) {
	for _, fs := range []string{"ext4", "ext3", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			r, ctx := real(t), t.Context()
			defer r.end()
			if fs != "xfs" && !mayGrow(t) {
				t.Skip("the kernel grows ext file systems for CAP_SYS_RESOURCE only, which is missing here; in the vm tier TestKernelLife does this")
			}
			c := stage.Capability{FS: fs, Flags: []string{"noatime"}}
			req := r.request(r.image(1, 320*mib, nil), store.AccessWrite, c)
			r.must(r.svc.Stage(ctx, req))
			pub := r.publish(req, "a/mount")
			r.must(r.svc.Publish(ctx, pub))
			content := []byte(strings.Repeat("strata ", 10000))
			r.must(os.WriteFile(filepath.Join(pub.Target.Path, "file"), content, 0o600))
			syncFS(t, pub.Target.Path)
			before := size(t, req.Path)

			twin := r.request(r.cloneOf(1, 2, 640*mib), store.AccessWrite, c)
			r.must(r.svc.Stage(ctx, twin))
			got, err := os.ReadFile(filepath.Join(twin.Path, "file"))
			r.must(err)
			if !bytes.Equal(got, content) {
				t.Error("the clone holds something else")
			}
			if n := size(t, twin.Path); n < before+256*mib {
				t.Errorf("the clone's file system has %d bytes, its source's %d", n, before)
			}

			r.must(r.Store.Grow(imageID(1), 480*mib))
			if _, err := r.svc.Expand(ctx, req.Volume, pub.Target.Path, 480*mib); err != nil {
				t.Fatal(err)
			}
			if n := size(t, pub.Target.Path); n < before+128*mib {
				t.Errorf("expanded from %d to %d bytes", before, n)
			}
			st, err := r.svc.Stats(ctx, req.Volume, pub.Target.Path)
			r.must(err)
			if st.Total != size(t, pub.Target.Path) || st.Used+st.Available > st.Total || st.InodesUsed == 0 {
				t.Errorf("stats %+v", st)
			}
			if n := r.formats(); n != 1 {
				t.Errorf("mkfs ran %d times", n)
			}
			if opts := r.options(pub.Target.Path); !slices.Contains(opts, "noatime") {
				t.Errorf("mount options %v", opts)
			}
		})
	}
}

func (r *rig) options(path string) []string {
	r.t.Helper()
	list, err := r.Mounter.List()
	r.must(err)
	for _, m := range list {
		if m.Path == path {
			return m.Opts
		}
	}
	return nil
}

// A file system that was not unmounted is read through a scratch head: its journal is
// replayed, and nothing else is written.
func TestRealScratch(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			r, ctx := real(t), t.Context()
			defer r.end()
			req := r.request(r.image(1, 320*mib, nil), store.AccessWrite, stage.Capability{FS: fs})
			r.must(r.svc.Stage(ctx, req))
			r.must(os.WriteFile(filepath.Join(req.Path, "file"), []byte("synced"), 0o600))
			syncFS(t, req.Path)
			r.cloneOf(1, 2, 640*mib) // while it is mounted, so that the journal is dirty
			ro := r.request(imageID(2), store.AccessScratch, stage.Capability{FS: fs, ReadOnly: true})
			r.must(r.svc.Stage(ctx, ro))
			got, err := os.ReadFile(filepath.Join(ro.Path, "file"))
			if err != nil || string(got) != "synced" {
				t.Errorf("read %q, %v", got, err)
			}
			if err := os.WriteFile(filepath.Join(ro.Path, "other"), nil, 0o600); !errors.Is(err, unix.EROFS) {
				t.Errorf("write: %v", err)
			}
			if n := size(t, ro.Path); n > 320*mib {
				t.Errorf("a file system that is mounted read-only was grown to %d bytes", n)
			}
			n, err := r.svc.Expand(ctx, ro.Volume, ro.Path, 0)
			r.must(err)
			if n != 640*mib || size(t, ro.Path) > 320*mib {
				t.Errorf("expanded to %d", n)
			}
		})
	}
}

// A read-only target beside a writable one, and a raw device as a file.
func TestRealTargets(t *testing.T) {
	r, ctx := real(t), t.Context()
	defer r.end()
	req := r.request(r.image(1, 16*mib, nil), store.AccessWrite, stage.Capability{})
	r.must(r.svc.Stage(ctx, req))
	rw, ro := r.publish(req, "rw"), r.publish(req, "ro")
	ro.Target.ReadOnly = true
	r.must(r.svc.Publish(ctx, rw))
	r.must(r.svc.Publish(ctx, ro))
	r.must(os.WriteFile(filepath.Join(rw.Target.Path, "file"), []byte("x"), 0o600))
	if _, err := os.Stat(filepath.Join(ro.Target.Path, "file")); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(ro.Target.Path, "other"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to the read-only target: %v", err)
	}

	raw := r.request(r.image(2, 16*mib, nil), store.AccessWrite, stage.Capability{Block: true})
	r.must(r.svc.Stage(ctx, raw))
	dev := r.publish(raw, "dev")
	r.must(r.svc.Publish(ctx, dev))
	f, err := os.OpenFile(dev.Target.Path, os.O_RDWR, 0)
	r.must(err)
	_, err = f.WriteAt([]byte("raw"), 4096)
	r.must(errors.Join(err, f.Sync(), f.Close()))
	content, err := os.ReadFile(r.Store.File(imageID(2)))
	r.must(err)
	if string(content[4096:4099]) != "raw" {
		t.Error("what was written to the target is not in the image")
	}
	r.must(r.Store.Grow(imageID(2), 32*mib))
	_, err = r.svc.Expand(ctx, raw.Volume, dev.Target.Path, 32*mib)
	r.must(err)
	if f, err = os.Open(dev.Target.Path); err != nil {
		t.Fatal(err)
	}
	n, err := f.Seek(0, 2)
	r.must(errors.Join(err, f.Close()))
	if n != 32*mib {
		t.Errorf("the device has %d bytes", n)
	}
}

// A device that is mounted elsewhere too is not taken away.
func TestRealStillMounted(t *testing.T) {
	r, ctx := real(t), t.Context()
	defer r.end()
	req := r.request(r.image(1, 16*mib, nil), store.AccessWrite, stage.Capability{})
	r.must(r.svc.Stage(ctx, req))
	elsewhere := filepath.Join(r.Dir, "elsewhere")
	r.must(os.Mkdir(elsewhere, 0o700))
	r.run("mount", "--bind", req.Path, elsewhere)
	err := r.svc.Unstage(ctx, req.Volume, req.Path)
	r.run("umount", elsewhere)
	wantErr(t, err, stage.ErrState, "is still mounted")
	r.must(r.svc.Unstage(ctx, req.Volume, req.Path))
}

// A damaged file system is not mounted, and not made anew.
func TestRealDamage(t *testing.T) {
	r := real(t)
	req := r.request(r.image(1, 32*mib, func(i *store.Info) { i.Format = "ext4" }), store.AccessWrite, stage.Capability{FS: "ext4"})
	r.run("mkfs.ext4", "-q", "-b", "4096", r.Store.File(imageID(1)))
	// An inode table of garbage: more than fsck -p mends without asking.
	r.write(imageID(1), 4096, strings.Repeat("\xff", 1024))
	err := r.svc.Stage(t.Context(), req)
	if err == nil {
		t.Error("mounted")
	}
	t.Log(err)
	if r.formats() > 0 {
		t.Error("formatted")
	}
	r.clean("after the refusal")
}
