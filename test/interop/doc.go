// Package interop proves the NBD server with clients that are not ours.
//
// Each test starts the real binary on a scratch directory, drives it with a tool of
// the Debian archive or with bytes that no honest client sends, and ends with the
// store's own check. Its output names the tool, its version and the result.
//
// The binary is STRATA_BIN, or is built. A missing tool fails the test unless
// STRATA_ALLOW_SKIP=1. Random choices follow from a printed seed; STRATA_SEED
// replays it.
//
// What it does not do: it never uses pkg/nbd, so that a misreading of the protocol
// on our side cannot hide by being made twice.
package interop
