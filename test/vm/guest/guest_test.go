package guest_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/test/vm/guest"
	"github.com/strata-csi/strata/test/vm/guest/wire"
	"github.com/strata-csi/strata/test/vm/kernellog"
)

// each runs a test in both kinds of guests.
func each(t *testing.T, test func(t *testing.T, kind guest.Kind)) {
	for _, kind := range []guest.Kind{guest.UML, guest.QEMU} {
		t.Run(string(kind), func(t *testing.T) { test(t, kind) })
	}
}

func shell(t *testing.T, m guest.Machine, timeout time.Duration, script string, env ...string) (guest.Result, string) {
	t.Helper()
	var out bytes.Buffer
	res, err := guest.Run(t.Context(), m, guest.Command{
		Args: []string{"/bin/sh", "-c", script}, Env: env, Timeout: timeout,
	}, &out)
	if err != nil {
		t.Fatalf("Run: %v\noutput: %s", err, &out)
	}
	if res.Code == 125 {
		t.Fatalf("the guest was not made ready: %q", res.Notes)
	}
	t.Logf("booted in %v, off after %v", res.Boot.Round(time.Millisecond), res.Total.Round(time.Millisecond))
	return res, out.String()
}

// A guest has its own kernel with NBD, sees the host's files where they are, and
// leaves no trace in them.
func TestGuestIsIsolated(t *testing.T) {
	each(t, func(t *testing.T, kind guest.Kind) {
		mine := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(mine, []byte("of the host\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		m := guest.Machine{Kind: kind, DiskBytes: 512 << 20, DiskFS: "xfs"}
		res, out := shell(t, m, time.Minute, `
			set -e
			cat `+mine+`
			echo of the guest >`+mine+`
			echo "$WORD"
			test -b /dev/nbd0
			awk '$2 == "/scratch" { print $3 }' /proc/mounts
			echo "guest says: I/O error, dev nbd7" >/dev/kmsg
			ip -brief address show lo | grep -q 127.0.0.1
			exit 7`, "WORD=passed on")
		if res.Code != 7 {
			t.Errorf("exit code = %d; want 7", res.Code)
		}
		if want := "of the host\npassed on\nxfs\n"; out != want {
			t.Errorf("output = %q; want %q", out, want)
		}
		if b, err := os.ReadFile(mine); err != nil || string(b) != "of the host\n" {
			t.Errorf("the host's file holds %q, %v after the guest wrote to its own", b, err)
		}
		if f := kernellog.Faults(res.Kernel); len(f) != 1 || !strings.Contains(f[0], "nbd7") {
			t.Errorf("faults in the kernel's log = %q; want the line that was put there", f)
		}
	})
}

// Output is neither cut nor changed, at full speed and up to the last byte.
func TestOutputIsWhole(t *testing.T) {
	each(t, func(t *testing.T, kind guest.Kind) {
		const lines = 100_000
		_, out := shell(t, guest.Machine{Kind: kind}, time.Minute, `seq 1 100000; printf '\r\001end'`)
		if n := strings.Count(out, "\n"); n != lines || !strings.HasSuffix(out, "100000\n\r\x01end") {
			t.Errorf("%d lines, ending with %q", n, out[max(0, len(out)-20):])
		}
	})
}

// A command that hangs is asked where it is, and so is the kernel.
func TestTimeout(t *testing.T) {
	each(t, func(t *testing.T, kind guest.Kind) {
		// A process that holds the output open and would live on must not matter.
		res, out := shell(t, guest.Machine{Kind: kind}, 2*time.Second,
			`trap 'echo asked; exit 1' QUIT; sleep 1000 & while :; do wait; done`)
		if res.Code != wire.TimeoutCode || !strings.Contains(out, "asked") {
			t.Errorf("exit code = %d, output %q; want %d and a word of the command", res.Code, out, wire.TimeoutCode)
		}
		if log := strings.Join(res.Kernel, "\n"); !strings.Contains(log, "Show Blocked State") {
			t.Errorf("the kernel was not asked for blocked tasks:\n%s", log)
		}
	})
}

// A command that no signal ends does not hold the guest.
func TestTimeoutInKernel(t *testing.T) {
	each(t, func(t *testing.T, kind guest.Kind) {
		m := guest.Machine{Kind: kind, DiskBytes: 512 << 20, DiskFS: "xfs"}
		res, _ := shell(t, m, 2*time.Second, `fsfreeze --freeze /scratch && exec touch /scratch/never`)
		if notes := strings.Join(res.Notes, "\n"); res.Code != wire.TimeoutCode || !strings.Contains(notes, "waits in the kernel") {
			t.Errorf("exit code = %d, notes %q; want %d and what is the matter", res.Code, notes, wire.TimeoutCode)
		}
		if log := strings.Join(res.Kernel, "\n"); !strings.Contains(log, "task:touch") {
			t.Errorf("the kernel has not told of the blocked task:\n%s", log)
		}
	})
}

// A kernel that dies is an error that shows why, not a wait for the timeout.
func TestPanic(t *testing.T) {
	each(t, func(t *testing.T, kind guest.Kind) {
		_, err := guest.Run(t.Context(), guest.Machine{Kind: kind}, guest.Command{
			Args: []string{"/bin/sh", "-c", "echo c >/proc/sysrq-trigger; sleep 100"}, Timeout: 3 * time.Minute,
		}, new(bytes.Buffer))
		if err == nil || !strings.Contains(err.Error(), "sysrq triggered crash") {
			t.Errorf("Run = %v; want an error with the kernel's panic", err)
		}
	})
}

// Cancelling ends every process of the guest.
func TestCancel(t *testing.T) {
	each(t, func(t *testing.T, kind guest.Kind) {
		ctx, cancel := context.WithCancel(t.Context())
		ready := writer(func(p []byte) (int, error) { cancel(); return len(p), nil })
		mark := "strata-guest-cancel-" + string(kind)
		_, err := guest.Run(ctx, guest.Machine{Kind: kind}, guest.Command{
			Args: []string{"/bin/sh", "-c", "echo up; sleep 1000", mark}, Timeout: time.Hour,
		}, ready)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v; want context.Canceled", err)
		}
		if out, err := exec.Command("pgrep", "-f", mark).Output(); err == nil {
			t.Errorf("processes are left: %s", out)
		}
	})
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func TestUnknown(t *testing.T) {
	run := func(m guest.Machine, args ...string) (guest.Result, error) {
		return guest.Run(t.Context(), m, guest.Command{Args: args}, new(bytes.Buffer))
	}
	if _, err := run(guest.Machine{Kind: "xen"}, "/bin/true"); err == nil || !strings.Contains(err.Error(), "xen") {
		t.Errorf("Run of an unknown kind = %v; want an error that names it", err)
	}
	res, err := run(guest.Machine{Kind: guest.UML}, "/no/such/program")
	if err != nil || res.Code != 127 || len(res.Notes) != 1 {
		t.Errorf("Run of a missing program = %+v, %v; want code 127 and a note", res, err)
	}
	res, err = run(guest.Machine{Kind: guest.UML, Modules: []string{"nonesuch"}}, "/bin/true")
	if err != nil || res.Code != 125 || len(res.Notes) != 1 || !strings.Contains(res.Notes[0], "nonesuch") {
		t.Errorf("Run with a missing module = %+v, %v; want code 125 and a note that names it", res, err)
	}
}
