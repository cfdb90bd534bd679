package storetest

import (
	"errors"
	"fmt"
	"sync"

	"github.com/strata-csi/strata/pkg/store"
)

// TestFlattenDeep: flatten frees the image and its own snapshots of their parent,
// lowers every descendant's depth, and changes no byte of any view.
func (s *suite) TestFlattenDeep() {
	a := s.create("a", 8*blk)
	s.write(a.ID, 0, random(1, 8*blk))
	b := s.clone("b", a.ID)
	s.write(b.ID, blk, random(2, blk))
	b1 := s.snapshot(b.ID, "1")
	s.discard(b.ID, 2*blk, blk)
	b2 := s.snapshot(b.ID, "2")
	s.write(b.ID, 3*blk, random(3, blk))
	c := s.clone("c", b1.ID)
	d := s.clone("d", c.ID)
	views := []store.Info{a, b, b1, b2, c, d}
	var want [][]byte
	for _, v := range views {
		want = append(want, s.read(v.ID))
	}
	s.must(s.s.Flatten(s.ctx, b.ID), "flatten")
	for i, v := range views {
		s.wantBytes(v.ID, want[i], v.Ref()+" after flatten")
		got := s.stat(v.ID)
		if wantDepth := []int{0, 0, 0, 0, 1, 2}[i]; got.Depth != wantDepth {
			s.Errorf("%s has depth %d after flatten, want %d", v.Ref(), got.Depth, wantDepth)
		}
		if got.Depth == 0 && (got.Parent != "" || got.ParentSnapshot != "" || got.Overlap != 0) {
			s.Errorf("%s is flat but has a parent: %+v", v.Ref(), got)
		}
	}
	children, err := s.s.Children(s.ctx, a.ID)
	s.must(err, "children")
	if len(children) != 0 {
		s.Errorf("the former parent still lists %d children", len(children))
	}
	s.remove(a.ID)
	for i, v := range views[1:] {
		s.wantBytes(v.ID, want[i+1], v.Ref()+" with the former parent removed")
	}
}

// TestFlattenIdempotent: flattening what is flat succeeds; its job is done.
func (s *suite) TestFlattenIdempotent() {
	parent := s.create("parent", 2*blk)
	want := s.fill(parent.ID, 0, 2*blk, 'p')
	child := s.clone("child", parent.ID)
	for _, id := range []store.ID{parent.ID, child.ID, child.ID} {
		s.must(s.s.Flatten(s.ctx, id), "flatten")
		job, err := s.s.StartFlatten(s.ctx, id)
		s.must(err, "start flatten")
		if job.State != store.JobDone || job.Kind != store.JobFlatten || job.Target != string(id) {
			s.Errorf("the job for a flat image is %+v", job)
		}
	}
	s.wantBytes(child.ID, want, "the flattened clone")
}

// TestFlattenJob: a started flatten is watched to its end, once for many requests.
func (s *suite) TestFlattenJob() {
	parent := s.create("parent", 4*mib)
	want := random(1, 4*mib)
	s.write(parent.ID, 0, want)
	child := s.clone("child", parent.ID)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			job, err := s.s.StartFlatten(s.ctx, child.ID)
			if err == nil && job.State != store.JobDone {
				err = await(s.ctx, s.s, job)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	for _, err := range errs {
		s.must(err, "flatten by job")
	}
	s.settle()
	if got := s.stat(child.ID); got.Depth != 0 || got.State != store.StateReady {
		s.Errorf("after its flatten job the image is %+v", got)
	}
	s.wantBytes(child.ID, want, "the flattened clone")
	for what, call := range map[string]func() error{
		"watch":  func() error { return s.s.WatchJob(s.ctx, "no job", func(store.Job) error { return nil }) },
		"pause":  func() error { return s.s.PauseJob(s.ctx, "no job") },
		"resume": func() error { return s.s.ResumeJob(s.ctx, "no job") },
		"cancel": func() error { return s.s.CancelJob(s.ctx, "no job") },
	} {
		s.wantErr(call(), what+" of an unknown job", store.ErrNotFound)
	}
}

// TestFlattenUnderWrites: a flatten runs while the image, its parent and its child are
// written; no write is lost and none shows where it should not.
func (s *suite) TestFlattenUnderWrites() {
	const size = 2 * mib
	parent := s.create("parent", size)
	s.write(parent.ID, 0, random(1, size))
	child := s.clone("child", parent.ID)
	grand := s.clone("grand", child.ID)
	views := []store.Info{parent, child, grand}
	want := make([][]byte, 3)
	errs := make([]error, 3)
	var wg sync.WaitGroup
	for i, v := range views {
		want[i] = s.read(v.ID)
		d := s.open(v.ID)
		wg.Go(func() { errs[i] = scribble(d, want[i], uint64(i), 300) })
	}
	s.must(s.s.Flatten(s.ctx, child.ID), "flatten under writes")
	wg.Wait()
	for i, v := range views {
		s.must(errs[i], "writing to %s", v.Name)
		s.wantBytes(v.ID, want[i], v.Name+" after a flatten under writes")
	}
	if got := s.stat(grand.ID).Depth; got != 1 {
		s.Errorf("the grandchild has depth %d", got)
	}
}

// scribble writes, zeroes and discards at scattered places, keeping want in step.
func scribble(d store.Device, want []byte, seed uint64, rounds int) error {
	size := int64(len(want))
	for i := range rounds {
		off := (int64(i)*7919 + int64(seed)*131) * 512 % (size - 3*blk)
		switch i % 5 {
		case 0:
			if err := d.Discard(off/blk*blk, 2*blk); err != nil {
				return err
			}
			clear(want[off/blk*blk : off/blk*blk+2*blk])
		case 1:
			if err := d.Zero(off, 1000, i%2 == 0); err != nil {
				return err
			}
			clear(want[off : off+1000])
		default:
			p := random(seed*1000+uint64(i), 700)
			if _, err := d.WriteAt(p, off); err != nil {
				return err
			}
			copy(want[off:], p)
		}
	}
	return nil
}

// TestPolicySoft: above the soft limit a clone is made at once, and background work
// brings its depth to the limit or less.
func (s *suite) TestPolicySoft() {
	img := s.image(store.Spec{Name: "v0", Size: 4 * blk, Policy: store.Policy{Soft: 3, Hard: 60}})
	want := make([]byte, 4*blk)
	for i := 1; i <= 20; i++ {
		at := int64(i) % 4 * blk
		copy(want[at:], s.fill(img.ID, at, 50, byte(i)))
		img = s.clone(fmt.Sprintf("v%d", i), s.snapshot(img.ID, "snap").ID)
		s.wantBytes(img.ID, want, img.Name)
	}
	s.settle()
	for id, info := range s.all() {
		if info.Depth > 3 {
			s.Errorf("with background work done, %s has depth %d", s.stat(id).Ref(), info.Depth)
		}
	}
	s.wantBytes(img.ID, want, "the last one, with background work done")
}

// TestPolicyHard: above the hard limit nothing is created; when the flatten that it
// waits for is done, the same request succeeds.
func (s *suite) TestPolicyHard() {
	img := s.image(store.Spec{Name: "v0", Size: 4 * blk, Policy: store.Policy{Soft: 2, Hard: 2}})
	s.fill(img.ID, 0, blk, 'a')
	for i := 1; i <= 2; i++ {
		img = s.clone(fmt.Sprintf("v%d", i), img.ID)
	}
	before, err := s.s.Status(s.ctx)
	s.must(err, "status")
	_, err = s.s.Create(s.ctx, store.Spec{Name: "v3", Parent: img.ID})
	s.wantErr(err, "clone above the hard limit", store.ErrBusy)
	_, err = s.s.Lookup(s.ctx, "v3")
	s.wantErr(err, "look up what was refused", store.ErrNotFound)
	s.wantCount(before.Images, before.Snapshots)
	for range 10 { // each refusal makes a flatten that helps urgent
		s.settle()
		_, err = s.s.Create(s.ctx, store.Spec{Name: "v3", Parent: img.ID})
		if !errors.Is(err, store.ErrBusy) {
			break
		}
	}
	s.must(err, "clone once the flatten is done")
	got, err := s.s.Lookup(s.ctx, "v3")
	s.must(err, "look up")
	if got.Depth > 2 {
		s.Errorf("depth is %d", got.Depth)
	}
	s.wantRange(got.ID, 0, blk, 'a', "the clone")
}

// TestPolicyHundred: a hundred clones at the limit do not cost a hundred flattens.
func (s *suite) TestPolicyHundred() {
	img := s.image(store.Spec{Name: "v0", Size: 16 * blk, Policy: store.Policy{Soft: 2, Hard: 40}})
	want := s.fill(img.ID, 0, 16*blk, 'a')
	for i := 1; i <= 2; i++ {
		img = s.clone(fmt.Sprintf("v%d", i), img.ID)
	}
	snap := s.snapshot(img.ID, "golden")
	for i := range 100 {
		s.clone(fmt.Sprintf("c%d", i), snap.ID)
	}
	s.settle()
	for _, info := range s.all() {
		if info.Depth > 2 {
			s.Errorf("%s has depth %d", info.Ref(), info.Depth)
		}
		s.wantBytes(info.ID, want, info.Ref())
	}
	status, err := s.s.Status(s.ctx)
	s.must(err, "status")
	if most := 16 * blk * 11 / 10; status.Copied > most {
		s.Errorf("background work copied %d bytes, want at most %d", status.Copied, most)
	}
}
