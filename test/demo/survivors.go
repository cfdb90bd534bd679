package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
)

// victims are what is deleted before the SIGKILL and after it: the root that everything was
// cloned from, parents before children, snapshots that have clones, both ends and the
// middle of the chain.
func victims() (before, after []string) {
	return strings.Fields(`go-src go-src@v0 gen-07@s gen-01 gen-01@s gen-13 gen-02@s gen-02 gen-14@s gen-22
			gen-21 gen-21@s gen-08@s gen-08`),
		strings.Fields(`gen-15 gen-15@s gen-16@s gen-03@s gen-03 gen-11 gen-11@s gen-23@s gen-18 gen-17@s
			gen-09@s gen-05`)
}

func (s *story) deleteFirst() (string, error) {
	before, _ := victims()
	return s.remove(before)
}

// deleteMore goes on after the restart and then lets the live client end.
func (s *story) deleteMore() (string, error) {
	_, after := victims()
	note, err := s.remove(after)
	if err != nil {
		return "", err
	}
	live := s.live
	s.live = nil
	reads, writes, reconnects, model, err := live.finish()
	if err != nil {
		return "", err
	}
	if reconnects == 0 {
		return "", fmt.Errorf("the live client was never cut off")
	}
	f, err := os.OpenFile(s.frozen, os.O_WRONLY, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := f.WriteAt(model, s.fsSize); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s; live client: %d reads and %d writes right, %d reconnect", note, reads, writes, reconnects), f.Close()
}

func (s *story) remove(refs []string) (string, error) {
	for _, ref := range refs {
		verb := []string{"rm", ref}
		if strings.Contains(ref, "@") {
			verb = []string{"snap", "rm", ref}
		}
		if err := s.all(verb); err != nil {
			return "", err
		}
	}
	fmt.Printf("    %s\n", strings.Join(refs, " "))
	return fmt.Sprintf("%d removed", len(refs)), nil
}

// killAndRestart kills the store while it flattens and while the live client writes.
func (s *story) killAndRestart() (string, error) {
	if err := s.all([]string{"flatten", "--no-wait", image(generations)}); err != nil {
		return "", err
	}
	var at store.Job
	err := until(s.ctx, "the flatten copies", func() (bool, error) {
		var status store.Status
		err := s.store.query(s.ctx, &status, "status")
		for _, j := range status.Jobs {
			if j.Kind == store.JobFlatten {
				at = j
			}
		}
		return at.Copied > 0 || len(status.Jobs) == 0, err
	})
	if err != nil {
		return "", err
	}
	if err := s.store.kill(); err != nil {
		return "", err
	}
	fmt.Printf("    killed when the flatten had copied %d MiB\n", at.Copied/mib)
	if err := s.store.start(s.ctx); err != nil {
		return "", err
	}
	err = until(s.ctx, "the flatten goes on by itself to its end", func() (bool, error) {
		depth, err := s.store.depth(s.ctx, image(generations))
		return depth == 0, err
	})
	return "the flatten went on to its end", err
}

// survivor is an image or snapshot that is left, and the generation it must equal.
type survivor struct {
	ref        string
	generation int
}

// survivors asks the store what is left and checks that it is what was not removed.
func (s *story) survivors() ([]survivor, error) {
	removed := map[string]bool{}
	before, after := victims()
	for _, ref := range slices.Concat(before, after) {
		removed[ref] = true
	}
	var left []survivor
	for g := range generations + 1 {
		for _, ref := range []string{image(g), snapshot(g)} {
			_, err := s.store.strata(s.ctx, "info", ref)
			switch {
			case removed[ref] && err == nil:
				return nil, fmt.Errorf("%s was removed and is still there", ref)
			case !removed[ref] && err != nil:
				return nil, fmt.Errorf("%s was not removed: %w", ref, err)
			case !removed[ref]:
				left = append(left, survivor{ref, g})
			}
		}
	}
	return left, nil
}

// verify copies every survivor out with nbdcopy, compares it with its reference, and checks
// its file system.
func (s *story) verify() (string, error) {
	left, err := s.survivors()
	if err != nil {
		return "", err
	}
	for _, v := range left {
		want, err := s.ref.at(s.ctx, v.generation)
		if err != nil {
			return "", err
		}
		if err := s.compare(v.ref, want); err != nil {
			return "", err
		}
	}
	if err := s.compare("live", s.frozen); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d images and snapshots: identical, clean", len(left)+1), nil
}

func (s *story) compare(ref, want string) error {
	out := filepath.Join(s.dir, "copied-out.img")
	if _, err := command(s.ctx, "nbdcopy", s.store.uri(ref), out); err != nil {
		return err
	}
	if _, err := command(s.ctx, "qemu-img", "compare", "-f", "raw", "-F", "raw", want, out); err != nil {
		return err
	}
	if _, err := command(s.ctx, "e2fsck", "-fn", out); err != nil {
		return err
	}
	fmt.Printf("    %-9s identical, clean\n", ref)
	return os.Remove(out)
}

func (s *story) check() (string, error) {
	out, err := s.store.strata(s.ctx, "check", "--deep")
	if err != nil {
		return "", err
	}
	fmt.Print(indent(out))
	var status store.Status
	if err := s.store.query(s.ctx, &status, "status"); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d images, %d snapshots, %d layers", status.Images, status.Snapshots, status.Layers), nil
}
