// Package nbd is a server and a client of the NBD protocol (fixed newstyle), for
// Linux. It knows nothing of images: a Backend opens an Export per connection, and
// the server turns requests into its methods.
//
// # Terms
//
//   - handshake: the phase in which client and server agree on an export and on
//     what both can do.
//   - transmission: the phase of requests and replies that follows.
//   - driver: the one goroutine of a connection that reads. It handles small
//     requests itself ("inline") and hands others to workers.
//   - stand-in: the goroutine that becomes the driver when the present one is stuck
//     in an inline call for more than a millisecond.
//   - turn: the memory a driver works with while there is something to do. An idle
//     connection holds none.
//   - cut: the abrupt end of a connection, for fencing. See Conn.Cut.
//   - kernel TLS: the kernel encrypts what is written to a socket and decrypts what is
//     read, with keys that user space has agreed upon. See DialKernel.
//
// # Invariants
//
//   - The memory that holds requests and replies never exceeds Config.Budget. It is
//     taken before a payload is read. Who holds a turn may wait for a buffer, who
//     holds a buffer waits for nothing but the export and the peer, and a peer has
//     a deadline.
//   - Requests wait for memory only behind those of their own size: small (up to
//     64 KiB), medium (up to 4 MiB) and large ones have parts of their own, and so
//     have turns. No peer gets more than two thirds of a part or, if that is more,
//     one request; what becomes free goes to the peer that holds the least.
//   - While somebody waits for memory, a connection that holds some of that part
//     and whose peer has been behind for Config.Impatience is cut, the furthest
//     behind first. Nobody is cut for that reason without such a need.
//   - After Conn.Done is closed no request of that connection reaches its export.
//     A request whose bytes were not wholly received is never started.
//   - A flush covers every write that was answered before the flush was received.
//   - Replies come in any order. Requests that overlap and are in flight together
//     are ordered by the export, not here.
//   - Flags and sizes that are offered are true; requests that break what was
//     agreed get the error the protocol names, and the connection goes on if its
//     framing is intact.
//
// # TLS
//
//   - A listener has TLS or has not (ServeTLS, Serve). Where it has, nothing is told and
//     nothing agreed upon before it, and what was said before is forgotten. A client
//     that has certificates never uses TCP without TLS, and says nothing to a server
//     that offers none.
//   - TLS 1.3 only, without tickets and resumption. Who the peer is, the certificates
//     of the configuration decide (pkg/pki); Conn.TLS tells a Backend.
//   - A TLS connection holds, beside the budget, up to a record in each direction, some
//     40 KiB; a handshake as much as its certificates, 256 KiB at most.
//   - A connection of which the kernel does the TLS is read no further than to the end
//     of the handshake's last record, and is replaced before its keys are used up, see
//     KeyBudget.
//
// # Not here
//
// Files and roles of certificates; extended headers and resizing, which are experimental in the protocol;
// attaching to the kernel; names, rights and fencing, which are pkg/export's.
package nbd
