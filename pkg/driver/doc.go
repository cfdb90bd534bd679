// Package driver serves CSI: it translates requests into calls of use-cases (pkg/volume
// on the controller, pkg/stage on a node) and what they return into answers. A handler
// checks fields, calls once, and builds the reply; it decides nothing.
//
// Invariants:
//
//   - Errors become codes in one table, status.go. A code that promises that nothing was
//     made is only given where the stores promise the same.
//   - The content source of a volume is echoed, or its provisioner would delete it.
//   - Secrets (the token of a publication, the secrets of a request) are in no message
//     and no log line.
//
// What it does not do: it keeps no state and knows no store.
package driver
