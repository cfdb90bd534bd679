// Package pki says who is who between the processes of strata: it makes the TLS
// configurations of both sides from files, names the role of a peer, and can issue the
// certificates where no other authority is at hand.
//
// # Terms
//
//   - role: what a process is, "store", "controller", "node" or "operator". A
//     certificate names it by a DNS name: store.strata, controller.strata and so on.
//     The first name of that form counts.
//   - files: the PEM files of a process: the authority's certificates, its own
//     certificate with what leads to the authority, and its key.
//
// # Invariants
//
//   - TLS 1.3 only, and both sides show a certificate of the same authority. A peer
//     without a role is refused. Sessions are never resumed, so each connection proves
//     it anew.
//   - The files are read at each handshake: renewed certificates and a changed
//     authority hold from the next connection on, without a restart.
//   - Errors say which file it is about and whether something has expired, is of an
//     unknown authority, is missing or is of the wrong role. They hold no secrets.
//
// # What it does not do
//
// It revokes nothing: whose certificate must not count any more loses its publication,
// or the authority is replaced. It grants no rights: what a role may do is said by
// those who serve.
package pki
