package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/strata-csi/strata/pkg/store"
)

// errOver ends a program whose disk has stopped.
var errOver = errors.New("the disk has stopped")

// run makes up and carries out a program of calls. It ends early when the disk stops.
func (l *ledger) run(length int) error {
	l.byRef = make(map[string]*account)
	script := []func() error{l.create, l.write, l.flush, l.snapshot, l.write, l.clone, l.publish, l.publish, l.write, l.unpublish}
	for i := range length {
		next := l.choose()
		if i < len(script) {
			next = script[i]
		}
		if err := next(); errors.Is(err, errOver) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (l *ledger) choose() func() error {
	switch n := l.rng.IntN(100); {
	case n < 4:
		return l.create
	case n < 40:
		return l.write
	case n < 52:
		return l.flush
	case n < 62:
		return l.snapshot
	case n < 72:
		return l.clone
	case n < 78:
		return l.resize
	case n < 84:
		return l.flatten
	case n < 92:
		return l.remove
	case n < 95:
		return l.revert
	case n < 97:
		return l.publish
	case n < 98:
		return l.unpublish
	}
	return l.read
}

// answer looks at the error of a call. An error is only allowed once the disk has
// failed; then it tells that the call was not answered, or that the program is over.
func (l *ledger) answer(what string, err error) (failed bool, _ error) {
	if err == nil {
		l.story = append(l.story, what)
		return false, nil
	}
	l.story = append(l.story, fmt.Sprintf("%s: %v", what, err))
	l.errs++
	if errors.Is(err, errWrong) || !l.hit() {
		return true, fmt.Errorf("%s: %w", what, err)
	}
	return true, nil
}

// over ends the program after a failed call, unless life goes on.
func (l *ledger) over(failed bool) error {
	if failed && !l.goOn {
		return errOver
	}
	return nil
}

// pick returns a random object of a kind that is certain, nil if there is none.
func (l *ledger) pick(kind store.Kind) *account {
	list := slices.DeleteFunc(l.all(), func(a *account) bool {
		return kind != "" && a.kind != kind || kind == "" && a.kind == kindHead || !a.certain()
	})
	if len(list) == 0 {
		return nil
	}
	return pick(l.rng, list)
}

// pickWritable returns a random image or private head that is certain.
func (l *ledger) pickWritable() *account {
	if l.rng.IntN(6) == 0 {
		if head := l.pick(kindHead); head != nil {
			return head
		}
	}
	return l.pick(store.KindImage)
}

// device opens the image, once.
func (l *ledger) device(a *account) error {
	if a.dev != nil {
		return nil
	}
	d, err := l.s.Open(l.ctx, a.id)
	failed, err := l.answer("open "+a.ref, err)
	if err == nil && !failed {
		a.dev = d
	}
	return err
}

func (l *ledger) closeDevice(a *account) error {
	if a.dev == nil {
		return nil
	}
	d := a.dev
	a.dev = nil
	_, err := l.answer("close "+a.ref, d.Close())
	return err
}

// onDevice runs a call on an image that is open.
func (l *ledger) onDevice(fn func(*account) error) error {
	a := l.pickWritable()
	if a == nil {
		return nil
	}
	if err := l.device(a); err != nil || a.dev == nil {
		return errors.Join(err, l.over(a.dev == nil))
	}
	return fn(a)
}

func (l *ledger) write() error {
	return l.onDevice(func(a *account) error {
		wr := writer{off: 0, length: a.size(), rng: l.rng}
		o := wr.next()
		for !o.mutates() {
			o = wr.next()
		}
		failed, err := l.answer(a.ref+": "+o.String(), o.do(a.dev, nil, 0))
		if err != nil {
			return err
		}
		s := &a.alts[0]
		var after [][]byte
		for _, v := range s.now {
			v = bytes.Clone(v)
			o.apply(v, 0)
			after = append(after, v)
		}
		if failed {
			s.now = append(slices.Clip(s.now), after...)
		} else {
			s.past, s.now = append(slices.Clip(s.past), s.now...), after
		}
		return l.over(failed)
	})
}

func (l *ledger) flush() error {
	return l.onDevice(func(a *account) error {
		failed, err := l.answer("flush "+a.ref, a.dev.Flush())
		if err == nil && !failed {
			a.alts[0].past = nil
		}
		return errors.Join(err, l.over(failed))
	})
}

func (l *ledger) read() error {
	return l.onDevice(func(a *account) error {
		p := make([]byte, a.size())
		_, err := a.dev.ReadAt(p, 0)
		failed, err := l.answer("read "+a.ref, err)
		if err == nil && !failed {
			if why := a.alts[0].refuse(true, p, false); why != "" {
				err = fmt.Errorf("%w: %s", errWrong, why)
			}
		}
		return errors.Join(err, l.over(failed))
	})
}

func (l *ledger) fresh(prefix string) string {
	l.serial++
	return fmt.Sprintf("%s%d", prefix, l.serial)
}

// made opens the account of an object that a call was to make.
func (l *ledger) made(a *account, info store.Info, failed bool, now [][]byte) error {
	a.alts = []state{{now: now}}
	if failed {
		a.alts = append(a.alts, state{gone: true})
	} else {
		a.id = info.ID
	}
	l.byRef[a.ref] = a
	return l.over(failed)
}

func (l *ledger) create() error {
	spec := store.Spec{Name: l.fresh("i"), Size: (8 + l.rng.Int64N(24)) * blk}
	spec.Policy = store.Policy{Soft: 1 + l.rng.IntN(3), Hard: 60}
	info, err := l.s.Create(l.ctx, spec)
	failed, err := l.answer(fmt.Sprintf("create %s of %d blocks", spec.Name, spec.Size/blk), err)
	if err != nil {
		return err
	}
	a := &account{ref: spec.Name, kind: store.KindImage, image: spec.Name}
	return l.made(a, info, failed, [][]byte{make([]byte, spec.Size)})
}

func (l *ledger) clone() error {
	from := l.pick("")
	if from == nil {
		return nil
	}
	spec := store.Spec{Name: l.fresh("i"), Parent: from.id, Size: from.size() + l.rng.Int64N(2)*8*blk}
	info, err := l.s.Create(l.ctx, spec)
	failed, err := l.answer(fmt.Sprintf("clone %s of %s with %d blocks", spec.Name, from.ref, spec.Size/blk), err)
	if err != nil {
		return err
	}
	a := &account{ref: spec.Name, kind: store.KindImage, image: spec.Name}
	return l.made(a, info, failed, sized(from.alts[0].now, spec.Size))
}

// sized returns the versions cut or filled with zeros to a size.
func sized(versions [][]byte, size int64) [][]byte {
	var out [][]byte
	for _, v := range versions {
		w := make([]byte, size)
		copy(w, v)
		out = append(out, w)
	}
	return out
}

func (l *ledger) snapshot() error {
	img := l.pick(store.KindImage)
	if img == nil {
		return nil
	}
	name := l.fresh("s")
	info, err := l.s.Snapshot(l.ctx, img.id, name)
	failed, err := l.answer("snapshot "+img.ref+"@"+name, err)
	if err != nil {
		return err
	}
	a := &account{ref: img.ref + "@" + name, kind: store.KindSnapshot, image: img.ref}
	return l.made(a, info, failed, slices.Clone(img.alts[0].now))
}

// changed notes what a structural call made of an object.
func (l *ledger) changed(a *account, failed bool, s state) error {
	if failed {
		a.alts = append(a.alts, s)
	} else {
		a.alts = []state{s}
	}
	return l.over(failed)
}

func (l *ledger) resize() error {
	a := l.pick(store.KindImage)
	if a == nil {
		return nil
	}
	size := (4 + l.rng.Int64N(36)) * blk
	_, err := l.s.Resize(l.ctx, a.id, size)
	failed, err := l.answer(fmt.Sprintf("resize %s from %d to %d blocks", a.ref, a.size()/blk, size/blk), err)
	if err != nil {
		return err
	}
	keep := min(size, a.size()) // what was cut off never shows again
	old := a.alts[0]
	return l.changed(a, failed, state{now: sized(sized(old.now, keep), size), past: sized(sized(old.past, keep), size)})
}

func (l *ledger) flatten() error {
	a := l.pick(store.KindImage)
	if a == nil {
		return nil
	}
	if l.rng.IntN(2) == 0 {
		_, err := l.s.StartFlatten(l.ctx, a.id)
		failed, err := l.answer("begin to flatten "+a.ref, err)
		return errors.Join(err, l.over(failed))
	}
	failed, err := l.answer("flatten "+a.ref, l.s.Flatten(l.ctx, a.id))
	return errors.Join(err, l.over(failed))
}

func (l *ledger) remove() error {
	a := l.pick("")
	if a == nil || len(l.byRef) < 4 || l.published(a) {
		return nil
	}
	if err := l.closeDevice(a); err != nil {
		return err
	}
	failed, err := l.answer("remove "+a.ref, l.s.Remove(l.ctx, a.id))
	if err != nil {
		return err
	}
	return l.changed(a, failed, state{gone: true})
}

func (l *ledger) revert() error {
	snap := l.pick(store.KindSnapshot)
	if snap == nil {
		return nil
	}
	a := l.byRef[snap.image]
	if a == nil || !a.certain() || l.published(a) {
		return nil
	}
	if err := l.closeDevice(a); err != nil {
		return err
	}
	failed, err := l.answer("revert "+a.ref+" to "+snap.ref, l.s.Revert(l.ctx, a.id, snap.id))
	if err != nil {
		return err
	}
	return l.changed(a, failed, state{now: slices.Clone(snap.alts[0].now)})
}
