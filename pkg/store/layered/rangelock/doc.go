// Package rangelock orders work on overlapping byte ranges.
//
// # Purpose
//
// A write holds its range from before it looks at the block map until its I/O is
// done, so that overlapping writes take effect in the order they came, and a
// background copy never overwrites newer data.
//
// # Terms
//
//   - exclusive and shared: a shared hold goes with other shared ones only.
//   - conflict: two requests conflict when they overlap and at least one of them
//     is exclusive.
//   - arrival: the moment inside Lock or RLock at which a request takes its place
//     before all that come later.
//
// # Invariants
//
//   - A request waits for exactly those requests that conflict with it and arrived
//     earlier, held or waiting. So conflicting requests are granted in the order
//     of arrival, nobody starves, and a request without conflict never waits.
//   - A goroutine that holds a guard must not take another one, unless no two of
//     them in the whole program can conflict: FIFO makes even two shared holds of
//     one range deadlock when an exclusive request arrives between them.
//   - Without a conflict nothing is allocated once the locks are warm.
//
// # What it does not do
//
// No upgrade, no downgrade, no time limit, no cancellation: what holds a range
// is I/O that ends by itself.
package rangelock
