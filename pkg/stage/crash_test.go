package stage_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/stage/stagetest"
	"github.com/strata-csi/strata/pkg/store"
)

// scenario is a call that may be interrupted, with what comes before and after.
type scenario struct {
	name string
	// before brings the host to where the call is made.
	before func(r *rig) error
	// call is what is interrupted, and repeated.
	call func(ctx context.Context, r *rig) error
	// check looks at the host after the call has succeeded.
	check func(r *rig) error
	// after takes everything back, from any state.
	after func(ctx context.Context, r *rig) error
}

func scenarios() []scenario {
	fsReq := func(r *rig) stage.Request {
		return r.request(imageID(1), store.AccessWrite, stage.Capability{FS: "ext4"})
	}
	rawReq := func(r *rig) stage.Request {
		return r.request(imageID(1), store.AccessWrite, stage.Capability{Block: true})
	}
	add := func(r *rig) error { return r.Store.Add(imageID(1), 16*mib, nil) }
	ready := func(r *rig) error {
		v, ok := r.volume(fsReq(r).Volume)
		if !ok || v.Phase != stage.PhaseReady || r.Store.Sessions(imageID(1)) != 1 || r.mountsAt(v.Path) != 1 {
			return fmt.Errorf("not staged whole: %+v", v)
		}
		return nil
	}
	staged := func(r *rig) error { return errors.Join(add(r), r.svc.Stage(r.t.Context(), fsReq(r))) }
	published := func(r *rig) error {
		return errors.Join(staged(r), r.svc.Publish(r.t.Context(), r.publish(fsReq(r), "a")))
	}
	unpublish := func(ctx context.Context, r *rig) error {
		return r.svc.Unpublish(ctx, fsReq(r).Volume, r.publish(fsReq(r), "a").Target.Path)
	}
	unstage := func(ctx context.Context, r *rig) error { return r.svc.Unstage(ctx, fsReq(r).Volume, fsReq(r).Path) }
	both := func(ctx context.Context, r *rig) error { return errors.Join(unpublish(ctx, r), unstage(ctx, r)) }
	mapIt := func(ctx context.Context, r *rig) error {
		_, err := r.svc.Map(ctx, stage.MapRequest{Pool: stagetest.Pool, Ref: r.Store.Info(imageID(1)).Name})
		return err
	}
	unmap := func(ctx context.Context, r *rig) error {
		err := r.svc.Unmap(ctx, "map:default:"+string(imageID(1)))
		if errors.Is(err, store.ErrNotFound) {
			err = nil
		}
		if pubs, _ := r.Store.Publications(ctx, imageID(1)); len(pubs) > 0 {
			return errors.Join(err, fmt.Errorf("left published: %v", pubs))
		}
		return err
	}
	return []scenario{
		{"Stage", add, func(ctx context.Context, r *rig) error { return r.svc.Stage(ctx, fsReq(r)) }, ready, unstage},
		{"StageRaw", add, func(ctx context.Context, r *rig) error { return r.svc.Stage(ctx, rawReq(r)) }, nil, unstage},
		{"Unstage", staged, unstage, nil, unstage},
		{"Publish", staged, func(ctx context.Context, r *rig) error { return r.svc.Publish(ctx, r.publish(fsReq(r), "a")) },
			func(r *rig) error {
				if n := r.mountsAt(r.publish(fsReq(r), "a").Target.Path); n != 1 {
					return fmt.Errorf("%d mounts at the target", n)
				}
				return ready(r)
			}, both},
		{"Unpublish", published, unpublish, ready, both},
		{"Expand", func(r *rig) error { return errors.Join(staged(r), r.Store.Grow(imageID(1), 32*mib)) },
			func(ctx context.Context, r *rig) error {
				_, err := r.svc.Expand(ctx, fsReq(r).Volume, fsReq(r).Path, 32*mib)
				return err
			}, ready, unstage},
		{"Map", add, mapIt, nil, unmap},
		{"Unmap", func(r *rig) error { return errors.Join(add(r), mapIt(r.t.Context(), r)) }, unmap, nil, unmap},
	}
}

// pointsOf runs a scenario's call and lists the points that it passes.
func pointsOf(t *testing.T, sc scenario) []string {
	t.Helper()
	r := newRig(t, false)
	r.must(sc.before(r))
	var points []string
	stage.SetCrash(r.svc, func(p string) { points = append(points, p) })
	r.must(sc.call(t.Context(), r))
	stage.SetCrash(r.svc, nil)
	r.must(sc.after(t.Context(), r))
	r.clean("after " + sc.name)
	return points
}

// At each point of each call the process ends. A new one is asked again, as a CO does,
// and ends well; or the CO gives up, and nothing is left.
func TestCrashAtEveryPoint(t *testing.T) {
	for _, sc := range scenarios() {
		points := pointsOf(t, sc)
		if len(points) < 2 {
			t.Errorf("%s: passes %v only", sc.name, points)
		}
		t.Logf("%s: %v", sc.name, points)
		slices.Sort(points)
		for _, p := range slices.Compact(points) {
			for _, giveUp := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/give up %v", sc.name, p, giveUp), func(t *testing.T) { crashOnce(t, sc, p, giveUp) })
			}
		}
	}
}

func crashOnce(t *testing.T, sc scenario, point string, giveUp bool) {
	r, ctx := newRig(t, false), t.Context()
	r.must(sc.before(r))
	if !r.crashing(point, 1, func(ctx context.Context) error { return sc.call(ctx, r) }) {
		t.Fatalf("%s was not reached", point)
	}
	r.restart()
	if !giveUp {
		r.must(sc.call(ctx, r))
		if sc.check != nil {
			r.must(sc.check(r))
		}
	}
	r.must(sc.after(ctx, r))
	r.clean("after all")
	if _, err := os.Lstat(r.publish(stage.Request{}, "a").Target.Path); !errors.Is(err, os.ErrNotExist) {
		t.Error("the target is left")
	}
	// The volume still works, and was not formatted over.
	r.must(r.Store.Unpublish(ctx, imageID(1), ""))
	info := r.Store.Info(imageID(1))
	c := stage.Capability{Block: info.Format == store.FormatUnknown}
	req := r.request(imageID(1), store.AccessWrite, c)
	before := r.formats()
	r.must(r.svc.Stage(ctx, req))
	if info.Format == "ext4" && r.formats() != before {
		t.Error("it was formatted again")
	}
}

// After a crash of the host, devices and mounts are gone and records are not.
func TestCrashOfTheHost(t *testing.T) {
	for _, sc := range scenarios() {
		if sc.name == "Unstage" || sc.name == "Unmap" {
			continue
		}
		t.Run(sc.name, func(t *testing.T) {
			r, ctx := newRig(t, false), t.Context()
			r.must(sc.before(r))
			r.must(sc.call(ctx, r))
			r.close()
			list, err := r.Mounter.List()
			r.must(err)
			for _, m := range slices.Clone(list) {
				r.must(r.Mounter.Unmount(m.Path))
			}
			r.must(r.Kernel.Boot())
			r.open()
			if sc.name == "Map" {
				// It is published still, so it gets its device back.
				r.await(stage.LinkBack, "map:default:"+string(imageID(1)))
			} else if len(r.svc.List()) > 0 {
				t.Errorf("left: %v", r.svc.List())
			}
			r.must(sc.after(ctx, r))
			r.clean("after all")
		})
	}
}

// Each call to kernel, store and programs fails once, at each place in turn: the call
// leaves nothing, and repeated it succeeds.
func TestFailureAtEveryCall(t *testing.T) {
	for _, sc := range scenarios() {
		undone := sc.name == "Stage" || sc.name == "StageRaw" || sc.name == "Map"
		for n := 1; ; n++ {
			failed := false
			t.Run(fmt.Sprintf("%s/%d", sc.name, n), func(t *testing.T) {
				r, ctx := newRig(t, false), t.Context()
				r.must(sc.before(r))
				errFault := errors.New("injected fault")
				left := n
				var mu sync.Mutex
				fail := func(op string) error {
					mu.Lock()
					defer mu.Unlock()
					if op == "Probe" || op == "Free" || op == "Note" || op == "SwapNote" || op == "Each" || op == "Devices" ||
						op == "Publish" && sc.name != "Map" {
						return nil // the watcher's, and the controller's
					}
					if left--; left == 0 {
						failed = true
						return fmt.Errorf("%s: %w", op, errFault)
					}
					return nil
				}
				r.setFail(fail)
				err := sc.call(ctx, r)
				r.setFail(nil)
				if failed && err != nil && undone {
					if sc.name != "Map" {
						r.clean("after " + err.Error())
					} else if pubs, _ := r.Store.Publications(ctx, imageID(1)); len(pubs) > 0 {
						t.Errorf("left published after %v", err)
					}
				}
				r.must(sc.call(ctx, r))
				if sc.check != nil {
					r.must(sc.check(r))
				}
				r.must(sc.after(ctx, r))
				r.clean("after all")
			})
			if !failed {
				break
			}
		}
	}
}

func (r *rig) setFail(f func(op string) error) {
	for _, to := range []*stagetest.Faults{&r.Store.Fail, &r.Kernel.Fail, &r.Mounter.Fail} {
		to.Set(f)
	}
	r.Exec.Fail.Set(func(program string) error {
		if program == "fsck.ext4" || f == nil {
			return nil // what fsck cannot say, the mount says
		}
		return f(program)
	})
}
