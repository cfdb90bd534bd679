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
//
// # Invariants
//
//   - The memory that holds requests and replies never exceeds Config.Budget. It is
//     taken before a payload is read. Who holds a turn may wait for a buffer, who
//     holds a buffer waits for nothing but the export and the peer, and a peer has
//     a deadline.
//   - After Conn.Done is closed no request of that connection reaches its export.
//     A request whose bytes were not wholly received is never started.
//   - A flush covers every write that was answered before the flush was received.
//   - Replies come in any order. Requests that overlap and are in flight together
//     are ordered by the export, not here.
//   - Flags and sizes that are offered are true; requests that break what was
//     agreed get the error the protocol names, and the connection goes on if its
//     framing is intact.
//
// # Not here
//
// TLS; extended headers and resizing, which are experimental in the protocol;
// attaching to the kernel; names, rights and fencing, which are pkg/export's.
package nbd
