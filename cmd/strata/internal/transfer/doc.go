// Package transfer copies the bytes of block images between files, block devices,
// pipes, NBD exports and strata images, sparse on both sides.
//
// # Terms
//
//   - source, sink: random access to the bytes copied, with knowledge of holes.
//   - stream: a reader or writer that cannot seek; what it holds is cut into pieces
//     and all-zero runs are found by looking.
//   - blank sink: one that reads as zero everywhere before the copy, so that zeros
//     need not be written.
//
// # Invariants
//
//   - Piece bytes times Options.InFlight bounds the memory of a copy.
//   - A copy that returns nil has flushed the sink. One that fails or is cancelled
//     has waited for every request it began; what it wrote stays, and whoever made
//     the sink takes it away.
//   - Runs of zeros of at least Grain bytes are never written as data.
//
// It creates no images and removes no files but its own temporary ones.
package transfer
