// Package vfs holds the file systems that the embedded store stands on.
//
// # Purpose
//
// The store talks to disks through FS and File only, so that every operation can
// be counted, made to fail, or be the last one before a crash.
//
//   - OS: the real file system (Linux).
//   - Mem: a disk in memory that knows what was synced and what was not. It stages
//     the crash of a process (ProcessCrash) and the loss of power (PowerCut).
//   - Faulty: wraps any FS and asks an Injector before each operation.
//   - Counting: wraps any FS and counts operations and bytes by kind.
//   - Pool: wraps any FS and keeps at most so many files open.
//   - Direct: wraps any FS and keeps some of its files out of the page cache.
//
// # Terms
//
//   - synced: a write followed by a successful Sync of its file, or a name change
//     followed by a successful SyncDir of its directory.
//   - process crash: the process is gone, the page cache is not. Everything
//     written is still there, synced or not.
//   - power cut: the page cache is gone. Synced data is there; of the rest any
//     part may be.
//   - sector: 512 bytes at a multiple of 512; the largest write that never tears.
//
// # Invariants
//
//   - Wrappers answer what the file system below answers: the same suite passes
//     over each of them.
//   - Errors name the operation and the path and wrap the cause, so errors.Is
//     finds fs.ErrNotExist, fs.ErrExist, os.ErrClosed and the errno values.
//   - Zero-length ranges are accepted everywhere and do nothing.
//   - No package-level state: two file systems never influence each other.
//
// # What it does not do
//
// No permissions or owners beyond what the OS checks, no links, no file locks, no
// memory mapping. Mem does not model time.
package vfs
