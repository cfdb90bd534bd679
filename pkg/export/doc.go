// Package export offers the images and snapshots of a store to an nbd.Server and
// decides who may use them.
//
// # Terms
//
//   - plain name: "image", "image@snapshot" or the id of either, for tools on the
//     same machine. "ro/" before it asks for reading only.
//   - publication name: "pub/<target>/<epoch>/<token>/<generation>", for nodes. Only
//     who was given the token can form it. The target is what was published, or the
//     private head of a publication with scratch access.
//   - generation: a number that rises with each attach or reconnect of a
//     publication. Parallel connections of one attach share it.
//   - session: the connections through which one plain client writes to an image:
//     those of one process (unix socket) or of one host (TCP).
//
// # Invariants
//
//   - An image has one writer: a publication for writing, or one plain session. A
//     second one is refused, naming the first. Publications that share an image write
//     side by side, and a private head has its node for a writer. Snapshots, publications for reading
//     and plain reading do not write and are not limited; while an image is
//     published for reading, a plain name gives no more than that.
//   - A connection of a newer generation is admitted only after every older one of
//     the publication is Done, so no stale request lands on newer data. Older
//     generations than the newest seen are refused.
//   - Unpublish is answered only after every connection of the publication is Done.
//     If it gave up waiting, the next writer waits instead.
//   - What a plain session has changed is of unknown format from then on, noted
//     durably before its first change is begun. One that changes nothing leaves an
//     unused image unused.
//   - Reads, writes, trims and writes of zeroes to an image keep within its limits,
//     summed over all connections and taken in the order in which they come; a change
//     holds for those that wait too. Who waits holds no lock and ends when its
//     connection is cut. Limits belong to images: private heads have none.
//   - Device errors that mean "not here any more" (store.ErrFenced, store.ErrClosed)
//     cut the connection without a reply: a kernel would turn any error reply into
//     a failed write, but sends the request again on its next connection.
//   - Where several processes serve a store (Holder), a publication withdrawn through one
//     ends its connections through all: each is on record before it may do anything, and
//     its publication is looked at once more after that.
//   - All connections to one image or snapshot share one store.Device.
//
// # Lock order
//
// object.gate (of what is published, then of its private head), then Registry.mu; neither is held while connections are awaited. The
// gate is held during calls of the store's publications, the mutex never.
//
// # Not here
//
// Durability of publications (the store's), the protocol (pkg/nbd), TLS.
package export
