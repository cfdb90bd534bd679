package storetest

import (
	"fmt"
	"runtime"
	"sync"
)

// recorder is a T that keeps failures instead of failing.
type recorder struct {
	mu       sync.Mutex
	failures []string
	skipped  bool
	cleanups []func()
}

func (r *recorder) Helper()             {}
func (r *recorder) Cleanup(fn func())   { r.cleanups = append(r.cleanups, fn) }
func (r *recorder) Logf(string, ...any) {}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Skipf(string, ...any) {
	r.skipped = true
	runtime.Goexit()
}

// run calls fn, then the clean-ups, as the testing package does.
func (r *recorder) run(fn func()) {
	var wg sync.WaitGroup
	wg.Go(fn)
	wg.Wait()
	for len(r.cleanups) > 0 {
		last := r.cleanups[len(r.cleanups)-1]
		r.cleanups = r.cleanups[:len(r.cleanups)-1]
		wg.Go(last)
		wg.Wait()
	}
}
