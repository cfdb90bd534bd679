// Package storetest proves backends of package store. Every backend must pass all of
// it; memstore is the oracle it compares with.
//
// # Parts
//
//   - Run: the conformance suite. One case for every promise of package store, found by
//     reflection, each on a store of its own that must check clean at its end.
//
// # Terms
//
//   - limit: something a backend declares that it cannot do, with the reason. Nothing
//     is skipped in any other way.
//
// # What it does not do
//
// It does not measure speed, and it knows nothing of files: what lies on disk after a
// crash is for the backend's own tests.
package storetest
