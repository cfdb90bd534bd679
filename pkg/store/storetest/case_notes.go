package storetest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/strata-csi/strata/pkg/store"
)

func (s *suite) swap(key, old, value string) {
	s.Helper()
	s.must(s.s.SwapNote(s.ctx, key, old, value), "note %q", key)
}

func (s *suite) wantNote(key, want string) {
	s.Helper()
	got, err := s.s.Note(s.ctx, key)
	if want == "" {
		s.wantErr(err, "reading no note", store.ErrNotFound)
	} else if err != nil || got != want {
		s.Errorf("note %q is %q, %v, want %q", key, got, err, want)
	}
}

func (s *suite) notes(prefix string) (list []string) {
	s.Helper()
	s.must(s.s.Notes(s.ctx, prefix, func(key, value string) error {
		list = append(list, key+"="+value)
		return nil
	}), "notes below %q", prefix)
	return list
}

// TestNotes: notes are made, changed and deleted by who knows what they were.
func (s *suite) TestNotes() {
	s.wantNote("node/a", "")
	s.swap("node/a", "", "")
	s.swap("node/a", "", "1")
	s.wantErr(s.s.SwapNote(s.ctx, "node/a", "", "2"), "making a note that is there", store.ErrConflict)
	s.wantErr(s.s.SwapNote(s.ctx, "node/a", "0", "2"), "changing another note", store.ErrConflict)
	s.wantErr(s.s.SwapNote(s.ctx, "node/b", "0", "2"), "changing no note", store.ErrConflict)
	s.wantNote("node/a", "1")
	s.swap("node/a", "1", "2")
	s.swap("node/a", "2", "2")
	s.swap("node/b", "", "x")
	s.swap("node", "", "\xff\x00\n")
	s.swap("nodf", "", "y")
	s.swap("\xff", "", "z")
	for range 2 {
		if got := strings.Join(s.notes("node/"), " "); got != "node/a=2 node/b=x" {
			s.Errorf("below node/ there are %q", got)
		}
		if got := strings.Join(s.notes(""), " "); got != "node=\xff\x00\n node/a=2 node/b=x nodf=y \xff=z" {
			s.Errorf("in all there are %q", got)
		}
		if got := s.notes("none"); len(got) != 0 {
			s.Errorf("below none there are %q", got)
		}
		s.reopen()
	}
	s.swap("node/a", "2", "")
	s.wantNote("node/a", "")
	s.swap("node/a", "", "again")
	s.wantNote("node/a", "again")
}

// TestNotesWalk: a walk is of one instant, and what it calls may use the store.
func (s *suite) TestNotesWalk() {
	for i := range 300 {
		s.swap(fmt.Sprintf("n/%03d", i), "", "v")
	}
	seen := 0
	s.must(s.s.Notes(s.ctx, "n/", func(key, _ string) error {
		if want := fmt.Sprintf("n/%03d", seen); key != want {
			return fmt.Errorf("got %q, want %q", key, want)
		}
		seen++
		return errors.Join(s.s.SwapNote(s.ctx, key, "v", ""), s.s.SwapNote(s.ctx, key+"x", "", "new"))
	}), "notes")
	if seen != 300 {
		s.Errorf("%d of 300 notes were seen", seen)
	}
	enough := errors.New("enough")
	if err := s.s.Notes(s.ctx, "", func(string, string) error { return enough }); !errors.Is(err, enough) {
		s.Errorf("the walk answers %v, want what its function said", err)
	}
}

// TestNotesBounds: keys of 1 to 255 bytes, values of up to 4 KiB.
func (s *suite) TestNotesBounds() {
	long := strings.Repeat("k", store.MaxName)
	big := strings.Repeat("v", store.MaxNote)
	s.swap(long, "", big)
	s.wantNote(long, big)
	s.wantErr(s.s.SwapNote(s.ctx, "", "", "v"), "an empty key", store.ErrInvalid)
	s.wantErr(s.s.SwapNote(s.ctx, long+"k", "", "v"), "a long key", store.ErrInvalid)
	s.wantErr(s.s.SwapNote(s.ctx, "k", "", big+"v"), "a long value", store.ErrInvalid)
	for _, key := range []string{"", long + "k"} {
		_, err := s.s.Note(s.ctx, key)
		s.wantErr(err, "reading under a bad key", store.ErrInvalid)
	}
	if got := s.notes(""); len(got) != 1 {
		s.Errorf("%d notes are there, want 1", len(got))
	}
	s.swap(long, big, "")
}

// TestNotesConcurrent: of those who change a note at once, one succeeds.
func (s *suite) TestNotesConcurrent() {
	const writers, rounds = 6, 15
	s.swap("count", "", "0")
	for round := range rounds {
		errs := make([]error, writers)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for w := range errs {
			wg.Go(func() {
				<-start
				errs[w] = s.s.SwapNote(s.ctx, "count", strconv.Itoa(round), strconv.Itoa(round+1))
			})
		}
		close(start)
		wg.Wait()
		done := 0
		for _, err := range errs {
			if err == nil {
				done++
			} else {
				s.wantErr(err, "a change that came too late", store.ErrConflict)
			}
		}
		if done != 1 {
			s.Fatalf("in round %d %d of %d changes were done, want one", round, done, writers)
		}
		s.wantNote("count", strconv.Itoa(round+1))
	}
}
