// Package pool knows which stores make up a pool and where each of them is now.
//
// # Terms
//
//   - pool: a named set of stores of one backend, described in the pools file.
//   - member: a store of a pool. It is its UUID; its address is only where it was
//     seen last, and two stores never share a UUID.
//   - known: a member that some member remembers by a note, or that was seen since
//     the process started. A known member that does not answer is missing.
//   - joined: a member whose name every other known member has noted. Only joined
//     members are given new volumes.
//
// # How members are remembered
//
// Addresses come from the pools file: a list, a headless service looked up anew for
// each discovery, the data directory of a store on the same host. Whoever answers
// there is asked for its UUID. In the notebook of every member are
//
//	pool               the name of the pool that claimed the store
//	member/<uuid>      where that member was seen last, or "forgotten"
//
// A store joins in two steps: its note is written on every known member first and in
// its own notebook last. So a store that holds volumes is known to all others, and
// none of them alone, asked after any restart, can pass for the whole pool.
//
// # Invariants
//
//   - A store that answers under the address of a known member that is found nowhere
//     else, and that has not joined itself, is refused: it may be that member on an
//     empty directory, and must not be taken for it.
//   - A view in which anything is missing says so (View.Err); a pool of which no store
//     answers is unavailable, never empty.
//   - A view waits for no store longer than Options.ProbeTimeout, so that the dead hold
//     nobody up. A store that lives and is slow is missing in it, and can still be had by
//     who needs just that one: Find and Reach wait for as long as their caller does.
//   - A forgotten store that comes back stays out until it is admitted again.
//
// The package dials through a function it is given, so it knows no transport. It does
// not place volumes and moves no data.
package pool
