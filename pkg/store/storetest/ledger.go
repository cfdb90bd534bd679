package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
)

// ledger runs one program of single calls and keeps what the store owes.
type ledger struct {
	ctx    context.Context
	s      store.Full
	rng    *rand.Rand
	hit    func() bool
	goOn   bool // an error does not end the program
	lost   bool // the page cache was lost
	errs   int64
	serial int
	byRef  map[string]*account
	story  []string
}

// account is what is known of one object.
type account struct {
	ref   string
	kind  store.Kind
	image string // of a snapshot, and of an image its own
	id    store.ID
	dev   store.Device
	// alts are the states it may be in. More than one only after a structural call
	// was not answered; the program leaves such an object alone from then on.
	alts []state
}

// state is one thing that an object may be: gone, or of certain bytes.
type state struct {
	gone bool
	// now is what all answered calls make of it. More than one version only after a
	// device call was not answered: then each sector is of any of them.
	now [][]byte
	// past is what it was since the last flush. Sectors of it may show when the page
	// cache was lost.
	past [][]byte
}

func only(p []byte) []state { return []state{{now: [][]byte{p}}} }

// certain tells whether the program may go on with the object.
func (a *account) certain() bool {
	return len(a.alts) == 1 && !a.alts[0].gone && len(a.alts[0].now) <= 8
}

func (a *account) size() int64 { return int64(len(a.alts[0].now[0])) }

// tell adds the story to an error.
func (l *ledger) tell(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w\nthe story so far:\n%s", err, strings.Join(l.story, "\n"))
}

// all lists the accounts, in the order of references.
func (l *ledger) all() []*account {
	var list []*account
	for _, ref := range slices.Sorted(maps.Keys(l.byRef)) {
		list = append(list, l.byRef[ref])
	}
	return list
}

// verify requires that the store pays what it owes.
func (l *ledger) verify() error {
	problems, err := l.s.Check(l.ctx, true)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	for _, p := range problems {
		if !p.Harmless {
			return fmt.Errorf("%w: check finds %s: %s", errWrong, p.Object, p.Text)
		}
	}
	known := make(map[store.ID]bool)
	for _, a := range l.all() {
		a.dev = nil
		if err := l.verifyAccount(a); err != nil {
			return fmt.Errorf("%s: %w", a.ref, err)
		}
		known[a.id] = true
	}
	return l.s.Walk(l.ctx, func(i store.Info) error {
		if !known[i.ID] {
			return fmt.Errorf("%w: walk finds %s, which nobody made", errWrong, i.Ref())
		}
		return nil
	})
}

// verifyAccount requires that the object is in one of its states, and settles on what
// it shows.
func (l *ledger) verifyAccount(a *account) error {
	info, err := l.find(a)
	there, err := exists(err)
	if err != nil {
		return err
	}
	var got []byte
	if there {
		a.id = info.ID
		if got, err = readRange(l.ctx, l.s, info.ID, 0, info.Size); err != nil {
			return err
		}
	}
	// A failed sync may have taken unflushed writes with it; the image must say so.
	lost := l.lost || there && info.State == store.StateReadOnly
	if a.kind == kindHead && (l.lost || l.goOn) && !there {
		// Unflushed writes went with the cache or a failed sync: it was retired.
		delete(l.byRef, a.ref)
		return nil
	}
	var why []string
	for _, s := range a.alts {
		reason := s.refuse(there, got, lost)
		if reason == "" {
			if !there {
				delete(l.byRef, a.ref)
			}
			a.alts = only(got)
			return nil
		}
		why = append(why, reason)
	}
	return fmt.Errorf("%w: %s", errWrong, strings.Join(why, "; or: "))
}

// refuse tells why the object is not in this state, "" if it is.
func (s state) refuse(there bool, got []byte, lost bool) string {
	switch {
	case s.gone && there:
		return "exists but was removed or not made"
	case s.gone:
		return ""
	case !there:
		return "does not exist"
	}
	versions := s.now
	if lost {
		versions = append(slices.Clip(s.past), s.now...)
	}
	if len(got) != len(versions[0]) {
		return fmt.Sprintf("has %d bytes, not %d", len(got), len(versions[0]))
	}
	const sector = 512
	for at := 0; at < len(got); at += sector {
		is := func(v []byte) bool { return bytes.Equal(got[at:at+sector], v[at:at+sector]) }
		if !slices.ContainsFunc(versions, is) {
			return fmt.Sprintf("at %d (block %d) it shows none of %d possible versions; against the newest: %s",
				at, at/store.Block, len(versions), difference(got, versions[len(versions)-1]))
		}
	}
	return ""
}

// use makes sure that the store works.
func (l *ledger) use() error {
	info, err := l.s.Create(l.ctx, store.Spec{Name: "afterwards", Size: 16 * blk})
	if err != nil {
		return err
	}
	d, err := l.s.Open(l.ctx, info.ID)
	if err != nil {
		return err
	}
	want := stamped(uint64(l.serial), 16*blk)
	if _, err := d.WriteAt(want, 0); err != nil {
		return err
	}
	if err := errors.Join(d.Flush(), d.Close()); err != nil {
		return err
	}
	l.byRef["afterwards"] = &account{ref: "afterwards", kind: store.KindImage, id: info.ID, alts: only(want)}
	return nil
}
