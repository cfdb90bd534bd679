// Package jobs is the durable, paced queue of a store's background work: flatten,
// merge, delete and scrub.
//
// # Terms
//
//   - job: a row of the caller's log that says what is to be done to which target.
//   - runner: the function that does it. It is told to stop by its context and must
//     be able to go on where it stopped, or to find that nothing is left to do.
//   - pace: the wait before each piece of work, by byte rate and by what the
//     foreground needs.
//   - load: how busy the foreground is, told by the devices.
//
// # States
//
//	queued  → running → (gone)      done: the row is deleted
//	running → queued                store.ErrBusy or store.ErrNoSpace: tried again later
//	running → failed                any other error: the row keeps it until resumed or cancelled
//	queued, running ⇄ paused        by Pause and Resume
//	any     → (gone)                by Cancel
//
// # Order
//
// Urgent jobs come first, then short ones, such as merges and deletes, which give space
// back, then long ones, such as flattens; within a class first come, first served. After
// a number of picks out of turn the oldest job that can run is taken, so none starves.
// Long jobs never take the last slot, and there is one slot more for urgent ones. Idle
// jobs, such as scrubs, run one at a time in a slot of their own.
//
// # Invariants
//
//   - A job is in the log before Add returns and until it is done or cancelled; after
//     a crash at any point Open finds it. Its progress there is a hint, a few seconds
//     old at most.
//   - Two jobs with the same target never run at once.
//   - Once Kill has returned the log is not touched any more; once Close has, neither.
//   - No lock is held while the log, a runner or a callback is called, but one per
//     job that keeps the writes of its row in order. So a caller may ask Find, Get and
//     List inside a transaction of the log's own store, but not Add or Cancel.
//
// # What it does not do
//
// It does not know what a job means, moves no data, and keeps no history beyond the
// last few finished jobs, in memory.
package jobs
