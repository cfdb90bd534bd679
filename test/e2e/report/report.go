// Package report prints the steps of a run with their times as they end.
package report

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Report prints steps. Its methods are safe for concurrent use.
type Report struct {
	mu    sync.Mutex
	w     io.Writer
	begin time.Time
}

// New returns a report whose clock starts now.
func New(w io.Writer) *Report { return &Report{w: w, begin: time.Now()} }

// Step runs a step and prints when it ended, how long it took and how.
func (r *Report) Step(name string, do func() error) error {
	begin := time.Now()
	err := do()
	r.line(time.Since(begin), name, err)
	return err
}

// Say prints a line of its own.
func (r *Report) Say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = fmt.Fprintf(r.w, "e2e: %6.1f s             %s\n", time.Since(r.begin).Seconds(), fmt.Sprintf(format, args...))
}

func (r *Report) line(took time.Duration, name string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	how := ""
	if err != nil {
		how = "   FAILED"
	}
	_, _ = fmt.Fprintf(r.w, "e2e: %6.1f s  (%5.1f s)  %s%s\n", time.Since(r.begin).Seconds(), took.Seconds(), name, how)
}
