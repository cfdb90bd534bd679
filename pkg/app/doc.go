// Package app wires the parts of strata into processes and starts and stops them in
// order.
//
// # The store process
//
// Start: mark the threads as I/O flushers, lock the data directory, initialise it if
// that was asked for, open the backend, bind the sockets, serve. Stop, in reverse:
// the API first, so that no new work comes; then NBD, whose clients get the answers
// to what was begun; then the backend, which flushes; then the sockets' files and the
// lock. A stop is bounded in time; what it could not finish is as safe as after a
// crash of the process.
//
// # Invariants
//
//   - A data directory is served by one process. The lock is the kernel's: it ends
//     with its holder, however that ends.
//   - A directory becomes a store only by Config.Init, and only if it is none yet.
//   - A unix socket that somebody listens on is never replaced; one that was left
//     behind is. Sockets have mode 0600 from the moment they can be reached.
//   - The API listens on unix sockets and loopback only, since it does not
//     authenticate.
//
// # What it does not do
//
// It handles no signals: whoever calls it ends the context.
package app
