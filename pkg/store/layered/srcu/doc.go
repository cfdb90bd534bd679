// Package srcu waits for readers without slowing them down.
//
// # Purpose
//
// A read resolves which layers it needs and then uses their files with no lock
// held. Who wants to close or unlink such a file first makes sure that no new read
// can find it, then calls Wait: when Wait returns, every read that may have found
// it is over. The name is that of the scheme in the Linux kernel, sleepable
// read-copy-update; the code is not.
//
// # Terms
//
//   - section: what happens between Enter and Exit. It may block, do I/O, and end
//     on another goroutine than it began on.
//   - phase: one of two sets of counters. New sections count in the current one.
//
// # Invariants
//
//   - Wait returns only after every section has exited whose Enter returned before
//     Wait was called. What such a section did happens before Wait returns.
//   - A section that Wait does not wait for finds what was published, by an atomic
//     or under a mutex, before Wait was called.
//   - Sections that begin later do not keep a Wait from returning, save those that
//     are in the middle of Enter when it is called.
//   - Waits at the same time share the work.
//
// # What it does not do
//
// It finds no forgotten Exit: Wait then never returns. Wait must not be called in a
// section of the same domain, for the same reason.
package srcu
