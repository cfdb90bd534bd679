package stage_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/strata-csi/strata/pkg/attach"
	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/stage/stagetest"
	"github.com/strata-csi/strata/pkg/store"
)

// write puts bytes into an image behind everybody's back.
func (r *rig) write(id store.ID, off int64, data string) {
	r.t.Helper()
	f, err := os.OpenFile(r.Store.File(id), os.O_RDWR, 0)
	r.must(err)
	_, err = f.WriteAt([]byte(data), off)
	r.must(errors.Join(err, f.Close()))
}

func (r *rig) run(program string, args ...string) {
	r.t.Helper()
	if out, err := exec.CommandContext(r.t.Context(), program, args...).CombinedOutput(); err != nil {
		r.t.Fatalf("%s: %v: %s", program, err, out)
	}
}

// mbr is the partition table of a master boot record: one partition of type Linux.
const mbr = "\x00\x20\x21\x00\x83\xfe\xff\xff\x00\x08\x00\x00\x00\x80\x00\x00" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x55\xaa"

func TestFormatGuard(t *testing.T) {
	format := func(f store.Format) func(*store.Info) { return func(i *store.Info) { i.Format = f } }
	for name, c := range map[string]struct {
		info   func(*store.Info)
		access store.Access
		cap    stage.Capability
		src    bool
		fill   func(r *rig, id store.ID)
		// formats is how often mkfs runs; err, if set, the error's text.
		formats int
		err     string
		after   store.Format
	}{
		"blank":                 {formats: 1, after: "ext4"},
		"blank xfs":             {cap: stage.Capability{FS: "xfs"}, formats: 1, after: "xfs"},
		"blank ext3":            {cap: stage.Capability{FS: "ext3"}, formats: 1, after: "ext3"},
		"interrupted":           {info: format(store.FormatBegun), formats: 1, after: "ext4"},
		"interrupted, torso":    {info: format(store.FormatBegun), fill: func(r *rig, id store.ID) { r.write(id, 5*mib, "torso") }, formats: 1, after: "ext4"},
		"marked":                {info: format("ext4"), err: "it is marked as used (ext4)", after: "ext4"},
		"handed out raw":        {info: format(store.FormatUnknown), err: "it is marked as used (unknown)", after: store.FormatUnknown},
		"clone":                 {info: func(i *store.Info) { i.Parent = imageID(9) }, err: "made from a snapshot"},
		"clone, flattened":      {src: true, err: "made from a snapshot"},
		"clone, interrupted":    {info: func(i *store.Info) { i.Parent, i.Format = imageID(9), store.FormatBegun }, err: "made from a snapshot", after: store.FormatBegun},
		"data, unknown":         {fill: func(r *rig, id store.ID) { r.write(id, 8*mib, "precious") }, err: "bytes of data of it"},
		"data at the beginning": {fill: func(r *rig, id store.ID) { r.write(id, 0, "precious") }, err: "bytes of data of it"},
		"read-only":             {cap: stage.Capability{ReadOnly: true}, err: "mounted read-only"},
		"mount option ro":       {cap: stage.Capability{Flags: []string{"ro"}}, err: "mounted read-only"},
		"published for reading": {access: store.AccessScratch, err: "published for scratch only"},
		"partitions":            {fill: func(r *rig, id store.ID) { r.write(id, 446, mbr) }, err: "a partition table"},
		"another file system":   {cap: stage.Capability{FS: "xfs"}, fill: func(r *rig, id store.ID) { r.run("mkfs.ext4", "-q", r.Store.File(id)) }, err: "holds the file system ext4, but xfs is asked for"},
		"made by other means":   {fill: func(r *rig, id store.ID) { r.run("mkfs.ext4", "-q", r.Store.File(id)) }, after: "ext4"},
		"what is there":         {info: format("ext3"), fill: func(r *rig, id store.ID) { r.run("mkfs.ext3", "-q", r.Store.File(id)) }, after: "ext3"},
		"cannot be mounted":     {fill: func(r *rig, id store.ID) { r.run("mkfs.btrfs", "-q", "-f", r.Store.File(id)) }, err: "btrfs, which cannot be mounted"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, false)
			id := r.image(1, 512*mib, c.info)
			if c.fill != nil {
				c.fill(r, id)
			}
			if c.access == "" {
				c.access = store.AccessWrite
			}
			req := r.request(id, c.access, c.cap)
			req.Sourced = c.src
			err := r.svc.Stage(t.Context(), req)
			if c.err == "" {
				r.must(err)
			} else {
				wantErr(t, err, stage.ErrState, c.err)
				r.clean("after the refusal")
			}
			if n := r.formats(); n != c.formats {
				t.Errorf("mkfs ran %d times, want %d", n, c.formats)
			}
			if f := r.Store.Info(id).Format; f != c.after {
				t.Errorf("format %q, want %q", f, c.after)
			}
		})
	}
}

// A device that has another size than the image is not the image.
func TestFormatGuardSize(t *testing.T) {
	r := newRig(t, false)
	req := r.ext4(1)
	r.must(os.Truncate(r.Store.File(imageID(1)), 8*mib))
	err := r.svc.Stage(t.Context(), req)
	if err == nil || r.formats() > 0 || r.Store.Info(imageID(1)).Format != store.FormatNone {
		t.Errorf("error %v, mkfs ran %d times", err, r.formats())
	}
	r.clean("after the refusal")
}

// shortened is a kernel whose devices lose their second half: reading there fails, as
// it does on a loop device whose file is truncated.
type shortened struct {
	*stagetest.Kernel
	image string
}

func (k shortened) Connect(ctx context.Context, r attach.Request) (attach.Device, error) {
	d, err := k.Kernel.Connect(ctx, r)
	if err == nil {
		err = os.Truncate(k.image, r.Size/2)
	}
	return d, err
}

// blkid answers that nothing was found also where it cannot read.
func TestFormatGuardUnreadable(t *testing.T) {
	needRoot(t)
	for _, f := range []store.Format{store.FormatNone, store.FormatBegun} {
		r := newRig(t, true)
		r.close()
		r.tune = func(c *stage.Config) { c.Kernel = shortened{r.Kernel, r.Store.File(imageID(1))} }
		r.open()
		req := r.request(r.image(1, 16*mib, func(i *store.Info) { i.Format = f }), store.AccessWrite, stage.Capability{FS: "ext4"})
		err := r.svc.Stage(t.Context(), req)
		wantErr(t, err, stage.ErrProbe, "Input/output error")
		if r.formats() > 0 || r.Store.Info(imageID(1)).Format != f {
			t.Errorf("mkfs ran %d times", r.formats())
		}
		r.clean("after the refusal")
	}
}

// No room for another device is told as such.
func TestNoFreeDevice(t *testing.T) {
	r := newRig(t, false)
	r.Kernel.SetMax(0)
	wantErr(t, r.svc.Stage(t.Context(), r.ext4(1)), attach.ErrFull, "no free NBD index")
	r.clean("after the refusal")
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for devices and mounts")
	}
}
