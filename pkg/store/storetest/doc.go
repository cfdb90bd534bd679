// Package storetest proves backends of package store. Every backend must pass all of
// it; memstore is the oracle it compares with.
//
// # Parts
//
//   - Run: the conformance suite. One case for every promise of package store, found by
//     reflection, each on a store of its own that must check clean at its end.
//   - Model: the model checker. Random programs run on the backend and on memstore.
//   - CrashLoop: a program on a disk that stops at its k-th change, for every k, ended by
//     a process crash or by a power cut.
//   - FaultLoop: a program whose k-th change of the disk fails, for every k.
//
// Mutants, stores and disks that break one promise each, prove in this package's own
// tests that each part finds what it is there for.
//
// # Terms
//
//   - limit: something a backend declares that it cannot do, with the reason. Nothing
//     is skipped in any other way.
//   - machine: where a backend keeps its store through closes and crashes. A crash drops
//     the process without Close and without sync; if Close ran, the harness fails.
//   - program: a random sequence of steps, made from a seed that is printed.
//   - step: one structural operation (create, snapshot, clone, resize, flatten, remove,
//     revert), during which two or three writers, and a reader, are at work; some steps
//     are cut short by a crash or by a close.
//   - gate: holds two writers in the midst of a write, in the backend's disk or, where
//     it has no gate, at its door, until the structural operation has begun; another
//     time until the crash or the close has. So every operation meets writers; a step
//     that lacks that fails.
//   - window: the blocks of one image that one writer of a step has for itself.
//   - cut: how many of a writer's operations a frozen view holds.
//
// # How the model checker judges
//
// Writers of one step have windows that do not meet, and each works alone, so the state
// of a window after n of its operations is known. A snapshot or clone made meanwhile
// must show, in each window, such a state, with n no smaller than what was answered
// before the call and no larger than what was begun before its answer. A write that was
// under way is in it wholly or not at all; a zero or discard may be in it by half, as
// backends cut long ones into pieces. The oracle gets
// the writers' operations up to that cut, the structural operation, and the rest.
// After a crash all answered operations must be there; each sector of the one that was
// not answered may be old or new, and the oracle takes what is there. An interrupted
// structural operation happened or did not, wholly.
//
// Between steps every byte, extent, name, size and diff is compared. Lineage may be
// shorter than the oracle's where an ancestor was removed or the store flattened by
// policy, never longer. In half of the programs no policy applies, so that it must be
// exact; in the others depths must be at or under the soft limit once no job is left.
//
// # What it does not do
//
// It does not measure speed, and it knows nothing of files: what lies on disk after a
// crash is for the backend's own tests. A seed repeats the program, not the way in
// which its goroutines interleave.
package storetest
