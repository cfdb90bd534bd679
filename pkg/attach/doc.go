// Package attach makes kernel block devices (/dev/nbd<n>) of NBD connections, by generic
// netlink. It knows sockets, indexes and sysfs, nothing of images or stores, and does no
// handshake: it is given sockets on which that is done.
//
// # Terms
//
//   - index: the number of a device. Ours lie in a private range, away from nbd0 to
//     nbd15, which nbd-client and qemu-nbd use.
//   - backend identifier: a text that the kernel keeps with a device and compares at
//     each reconnect. Ours begin with Prefix. It is what tells our devices from others'
//     and one image from the next at the same index.
//   - to hold a socket: to have a descriptor of it besides the kernel's. This process
//     holds the sockets that it handed over itself; after a start it holds none.
//   - dead: the kernel has seen the end of a connection. Requests then wait, up to
//     Config.DeadTimeout, for another one.
//   - to adopt: what the kernel does with the socket of a RECONFIGURE if the old one is
//     dead. If it is not, the kernel drops the new one and reports success.
//
// # What a device is set to
//
// One connection. Request timeout 0: a server that is slow is never cut off. Every
// Config.IOTimeout (queue/io_timeout) the kernel looks at a request that has no answer,
// and if the connection has been replaced since, sends it again. With two connections, or
// another timeout, the kernel would end a slow connection and send its requests twice.
// All settings are set at each Connect, as an index may keep those of its last use.
// DESTROY_ON_DISCONNECT: an index that is not in use has no device. The block size is
// always named, as the kernel's default is 1024. The I/O scheduler is off.
//
// # Sequences
//
// Attach: dial, handshake, Connect. With ErrFull nothing has changed.
//
// The connection breaks (Watch tells, or a probe of the server): Restore with a function
// that looks the server up, dials under a new generation and does the handshake. A store
// that admits a new generation has ended the older ones, and if this process holds the
// old socket Reconnect cuts it, so the kernel sees its end either way. If neither can be,
// because this process was started anew and the server's host is unreachable, the old
// TCP connection ends by its keepalive and user timeout; until then ErrNotAdopted, and
// the next attempt. Requests that wait go out at once, those that were under way within
// Config.IOTimeout. Nothing fails that the application would see.
//
// How it is known that the kernel adopted a socket: the list of descriptors in the
// RECONFIGURE names a second one that is no socket. The kernel comes to it only after it
// has adopted the first, and then says ENOTSOCK without taking anything back. If it drops
// the first, it stops there and says that all is well. A dropped socket is untouched and
// is offered again.
//
// The process starts: first Watch, then Devices. For those it has records of, Restore
// each (which makes it hold the sockets) if the server can be reached; a device whose
// server cannot be reached is left alone, it may well work. Devices without a record are
// ended by Disconnect if nothing has them mounted. Start Watch before anything can break:
// of a connection that died unwatched the server knows, since the kernel closes it. Watch
// also takes back what a Resize has set whose process died in its midst.
//
// Replace a connection that works (limit of a key, another transport): Replace. The new
// connection needs a new generation too: bytes that the old one has sent and the server
// not yet read must never be carried out after newer ones.
//
// Grow: the store, then Resize, then the file system. A server that goes by the size of
// the handshake, as ours does not, needs a Replace before Resize. Do not have the server
// end the connection while Resize runs, other than by Restore and Replace, which wait for
// it: newer kernels let requests finish first, under the lock that a reconnect needs.
//
// Detach: unmount, then Disconnect, then tell the store. If Disconnect returns ErrStuck,
// have the server end the connection (unpublish, fence) and try again. This can be only
// if this process does not hold the socket and a server on the same host has stopped
// reading. The kernel handles generic netlink one message at a time, so until then no
// other device can be attached, reconnected or ended; their I/O goes on. It is why
// Restore at the start matters.
//
// # Invariants
//
//   - A device without our prefix is never changed, and no device on behalf of another
//     backend identifier than the caller's: the kernel checks it at RECONFIGURE, this
//     package before everything else.
//   - No call hangs for longer than its bounds, whatever a server does. What the kernel
//     does not give back stays in a goroutine of its own, one per device at most and one
//     more for a probe; the device answers ErrStuck meanwhile.
//   - A reconnect never carries a size.
//   - Sockets are closed exactly once, by this package, in every outcome.
//   - No descriptor is inherited by programs that the process starts.
//
// # What it does not do
//
// Handshakes and TLS (package nbd), deciding when to reconnect and keeping records
// (package stage), mounting, several connections per device, the ioctl interface.
package attach
