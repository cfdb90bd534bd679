package storetest

import (
	"strings"
	"testing"
)

// TestLoopsSound: a disk without flaws passes every loop.
func TestLoopsSound(t *testing.T) {
	disk := func(*testing.T) Disk { return &brittle{} }
	t.Run("crash", func(t *testing.T) { CrashLoop(t, disk, LoopOptions{}) })
	t.Run("fault", func(t *testing.T) { FaultLoop(t, disk, LoopOptions{}) })
}

// TestLoopsMutants: each flaw is found by the loop that is there for it.
func TestLoopsMutants(t *testing.T) {
	for name, m := range map[string]struct {
		flaw flaw
		fate fate
	}{
		"a flush makes nothing durable":             {flushForgets, fateLoseAll},
		"a flush makes nothing durable, some":       {flushForgets, fateLoseSome},
		"a creation is lost":                        {createForgets, fateLoseAll},
		"a process crash loses the page cache":      {crashForgets, fateCrash},
		"a failed write is answered":                {faultSwallowed, fateFault},
		"a failed write damages other blocks":       {faultSpills, fateFault},
		"a power cut brings back what was cut off":  {growShowsCut, fateLoseAll},
		"a snapshot lacks what was not yet flushed": {snapshotUnsettled, fateLoseAll},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(30) {
				_, _, err := rounds(func() Disk { return &brittle{flaw: m.flaw} }, seed, m.fate, LoopOptions{})
				if err != nil {
					first, _, _ := strings.Cut(err.Error(), "\n")
					t.Logf("seed %d, %s: %.300s", seed, m.fate, first)
					return
				}
			}
			t.Error("30 programs do not find it")
		})
	}
}

// closingDisk closes the store where it should crash.
type closingDisk struct{ brittle }

func (d *closingDisk) Crash() error {
	if err := d.s.Close(); err != nil {
		return err
	}
	return d.brittle.Crash()
}

// TestCrashLoopMustNotClose: the loop refuses a crash that closes.
func TestCrashLoopMustNotClose(t *testing.T) {
	_, _, err := rounds(func() Disk { return &closingDisk{} }, 1, fateCrash, LoopOptions{})
	if err == nil || !strings.Contains(err.Error(), errCrashClosed.Error()) {
		t.Errorf("a crash that closes is answered by %v", err)
	}
}
