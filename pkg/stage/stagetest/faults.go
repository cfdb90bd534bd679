package stagetest

import "sync/atomic"

// Faults injects errors into calls. It may be changed at any time.
type Faults struct {
	ask atomic.Pointer[func(op string) error]
}

// Set makes each call ask f first, by the call's name; nil ends it.
func (f *Faults) Set(ask func(op string) error) {
	if ask == nil {
		f.ask.Store(nil)
		return
	}
	f.ask.Store(&ask)
}

func (f *Faults) hit(op string) error {
	if ask := f.ask.Load(); ask != nil {
		return (*ask)(op)
	}
	return nil
}
