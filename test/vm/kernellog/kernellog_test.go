package kernellog

import "testing"

func TestFaults(t *testing.T) {
	bad := []string{
		"[    9.1] blk_update_request: I/O error, dev nbd0, sector 8 op 0x1:(WRITE)",
		"[    9.1] Buffer I/O error on dev nbd0, logical block 1, lost async page write",
		"[    9.1] EXT4-fs error (device nbd0): ext4_journal_check_start:83: comm fio: Detected aborted journal",
		"[    9.1] XFS (nbd0): Filesystem has been shut down due to log error (0x2).",
		"[  122.1] INFO: task fio:212 blocked for more than 30 seconds.",
		"[    1.1] BUG: kernel NULL pointer dereference, address: 0000000000000000",
		"[    1.1] WARNING: CPU: 1 PID: 12 at drivers/block/nbd.c:1",
	}
	good := []string{
		"[    1.1] nbd0: detected capacity change from 0 to 2048",
		"[    1.1] block nbd0: Receive control failed (result -32)",
		"[    1.1] block nbd0: Possible stuck request 0: control (write@0,4096B). Runtime 30 seconds",
		"[    1.1] EXT4-fs (nbd0): mounted filesystem with ordered data mode. Quota mode: none.",
		"[    0.0] Debug: EIOU is a word",
	}
	if got := Faults(bad); len(got) != len(bad) {
		t.Errorf("Faults(bad) found %d of %d lines: %q", len(got), len(bad), got)
	}
	if got := Faults(good); len(got) != 0 {
		t.Errorf("Faults(good) = %q; want none", got)
	}
}
