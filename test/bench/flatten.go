package main

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"
)

// flattenBesideCopy times flatten, which ends on the disk, and cp with sync of the same
// bytes, in turn.
func (l *lab) flattenBesideCopy() error {
	const name = "flatten beside cp"
	if !strings.Contains(name, l.only) {
		return nil
	}
	var flatten, copied []time.Duration
	for i := range l.rounds {
		image := fmt.Sprintf("flat%d", i)
		if err := l.tool("clone", "base@s", image); err != nil {
			return err
		}
		syscall.Sync() // what is dirty from before is nobody's
		d, err := timed(func() error { return l.tool("flatten", image) })
		if err != nil {
			return err
		}
		flatten = append(flatten, d)
		d, err = timed(func() error {
			if err := l.do("cp", "--reflink=never", l.file("raw"), l.file("copy")); err != nil {
				return err
			}
			return l.do("sync", l.file("copy"))
		})
		if err != nil {
			return err
		}
		copied = append(copied, d)
		if err := l.tool("rm", image); err != nil {
			return err
		}
		if err := l.do("rm", l.file("copy")); err != nil {
			return err
		}
	}
	slices.Sort(flatten)
	slices.Sort(copied)
	f, c := flatten[len(flatten)/2], copied[len(copied)/2]
	fmt.Printf("\n%s of %d MiB, median of %d alternated rounds (target: rate ≥ 0.9)\n  flatten %v, cp and sync %v: rate %.2f\n",
		name, imageSize, l.rounds, f.Round(time.Millisecond), c.Round(time.Millisecond), c.Seconds()/f.Seconds())
	return nil
}

func timed(do func() error) (time.Duration, error) {
	begin := time.Now()
	err := do()
	return time.Since(begin), err
}
