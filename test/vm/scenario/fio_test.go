//go:build kernelnbd

package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// fioVerify writes and reads back with fio, round after round, until it is halted or
// something is not as it was written.
type fioVerify struct {
	cancel context.CancelFunc
	ended  chan struct{}
	rounds int
	err    error
}

// startFio begins to verify with a file in dir of size bytes, at random, with
// checksums, past the page cache.
func startFio(t *testing.T, dir string, size int64) *fioVerify {
	t.Helper()
	// Halting waits for the end of a round: one that is cut off verifies nothing.
	ctx, cancel := context.WithCancel(t.Context())
	f := &fioVerify{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(f.ended)
		for ctx.Err() == nil && f.err == nil {
			f.err = fioRound(t.Context(), dir, size, f.rounds)
			f.rounds++
		}
	}()
	t.Cleanup(func() { releaseIO(t); cancel(); _ = comesBack(f.ended, "fio") })
	return f
}

func fioRound(ctx context.Context, dir string, size int64, round int) error {
	cmd := exec.CommandContext(ctx, "fio", "--name=verify", "--filename="+filepath.Join(dir, "fio"),
		fmt.Sprintf("--size=%d", size), "--rw=randwrite", "--bsrange=4k-64k", "--bs_unaligned=0", "--blockalign=4k",
		"--direct=1", "--ioengine=libaio", "--iodepth=8", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
		fmt.Sprintf("--randseed=%d", round+1), "--fallocate=none", "--end_fsync=1", "--output-format=terse", "--thread")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("fio, round %d: %w\n%s", round, err, &out)
	}
	if bytes.Contains(out.Bytes(), []byte("verify: bad")) || bytes.Contains(out.Bytes(), []byte("io_u error")) {
		return fmt.Errorf("fio, round %d: %s", round, &out)
	}
	return nil
}

// verify waits for the end of the round and fails if one has found something.
func (f *fioVerify) verify(t *testing.T) {
	t.Helper()
	f.cancel()
	if err := comesBack(f.ended, "fio"); err != nil {
		t.Fatal(err)
	}
	if f.err != nil {
		t.Errorf("after %d rounds: %v", f.rounds, f.err)
		return
	}
	if f.rounds == 0 {
		t.Error(errors.New("fio has not finished a round"))
	}
	t.Logf("fio: %d rounds of writing and verifying, no error", f.rounds)
}
