// Package layered is the embedded backend of strata: block images with snapshots,
// clones and flatten in one directory of one machine, one copy of each byte.
//
// # Terms
//
//   - layer: a sparse data file and a map that says of every block of 4 KiB whether
//     it is absent (ask below), data or zero; see package layer.
//   - head: the one layer of an image that takes writes. Sealed: any other; what it
//     shows never changes, though where its bytes lie may.
//   - chain: the layers from a head or snapshot down to a layer without parent.
//   - root: the bottom own layer of an image. The edge below it is the clone link.
//   - overlap: how many bytes of its parent a layer shows. It only shrinks.
//   - view: a chain in use, with a cache of what was resolved, by chunks of 4 MiB.
//   - merged index: a cached answer for up to 64 sealed layers at once; see index.go.
//   - private head: an image without a name that belongs to one publication with
//     scratch access; see scratch.go.
//   - gate: held shared by each write of an image, exclusively to change its head.
//
// # Directory
//
//	catalogue.db           names, layers, intents, jobs, publications; package meta
//	layers/<16 hex>.data   data of a layer: offset in file is offset in image
//	layers/<16 hex>.map    its header, map and journal; package layer
//	layers/<16 hex>.index  merged index whose top is that layer; may be deleted
//	layers/<16 hex>.sums   checksums of a sealed layer's data; may be deleted
//	layers/.probe          made and removed at start-up, to see that one can write
//
// # Invariants
//
//   - The maps are the only truth about blocks, the catalogue about layers. Holes of
//     data files, layer headers and indexes are never needed to read.
//   - Files of a layer exist before its row and go after it. Ids handed out and not
//     bound lie in a reserved window, which start-up sweeps.
//   - Background work writes to sealed layers only, with a claim on them, and never
//     changes what any view shows.
//   - A chunk is freed only when its copy is durable, the map says so durably, no
//     view remembers it and no reader holds it (package srcu).
//   - Whatever changes a layer under an index forgets the index first.
//   - Each multi-step change is an intent, a mark or a job in the catalogue, written
//     in the transaction that begins it, and may be repeated.
//   - No data I/O inside a catalogue transaction.
//
// Lock order: key lock of an object, gate, range lock, shards of a view, catalogue.
//
// # Write
//
// Under the shared gate and the lock of its range, a write goes to the head's data
// file. Blocks the head has already are done then. Others are written whole, with what
// the view shows around the edges, and get a record in the journal; then the view
// learns of them. After that the write is answered: it survives a crash of the
// process. Discard records zero first and punches the hole after. Flush syncs the
// data, commits the records and syncs the journal.
// With Options.AllocUnit the space around a first write is taken with it; what of that
// no block came to use is given back when the layer is sealed, by a job written down in
// that transaction. The map alone says what is data; on a full disk the space of the
// blocks alone is taken.
// With Options.DirectIO the data files, and they alone, are read and written past the
// page cache.
//
// # Read
//
// In an srcu section the view resolves the range to runs of layers: from its cache,
// else from the maps, top down until nothing is open, with an index in place of the
// layers that it covers. Each run is one read of one data file. Depth costs nothing
// once a chunk is resolved.
//
// # Snapshot and clone
//
// Head flushed and the new head's files made while writes go on; then, with the gate
// held, one more flush and one transaction: the head is sealed, the new one put on it,
// the name bound. A head with no block, of the size of what is below, is not sealed:
// the layer below is used again. A clone of a snapshot is one transaction and the
// files of one empty layer; a clone of an image first seals, in the same transaction.
// The depth policy is applied there: too deep queues a flatten or is refused.
//
// # Private heads
//
// Publishing with scratch access makes a clone as above, in the transaction of the
// publication, but without a name, a policy or a place in any list; withdrawing it removes
// it as an image is removed, in one transaction again. Devices that are still open then
// are fenced first: new requests answer ErrFenced, those under way have ended, and what
// the devices held is let go of. No order but the publication's own reaches a private
// head. One that may have lost answered writes is retired like other publications.
//
// # Flatten
//
// A job fills the absent blocks of the root with what its ancestors show there, by
// reflink where the file system can, in batches that are flushed. Where the root is the
// head, that is sealed first. Then one transaction cuts the link and drops what nobody
// needs any more. Anything already filled is not looked at again after a crash.
//
// # Merge and delete
//
// Removing unbinds a name. A layer that nothing refers to goes at once if it has no
// child, and is merged with its child if that is its only one and sealed; under a head
// it stays as a spare until the next seal. The mark in the row keeps off new
// references. The side with less data moves, batch by batch, each freed in the source
// once it is durable in the target, so little space is needed. The last transaction
// gives the emptied layer's place to the other; a job unlinks its files.
//
// # Start
//
// Unbound files are swept, publications of images that may have lost answered writes
// with the page cache are retired, shrinks are finished, jobs go on. In that order: the
// first write to a layer takes the traces of a loss away.
//
// With Options.StableAck a write is answered after a flush, without gate or range lock,
// that concurrent writers share. The mark "ack" in the catalogue says that this held
// for everything published images may have unflushed; where it does, a loss of the page
// cache retires nothing. A start with the option flushes first and marks then, one
// without it takes the mark away, both before any device is opened.
//
// # Damage
//
// A layer whose files are missing, cut off or fail a checksum is remembered; images and
// snapshots over it answer ErrCorrupt with the reason and are StateFaulty, all others
// serve. It is looked at again at each Open. A failed sync of a head makes its image
// read-only for ever, by catalogue and header, until it is reverted. One of a sealed
// layer, to which a job copied, costs nobody anything: the job takes the layer back to
// what is known to be on the disk, copies the rest again, and tries until it succeeds. On a full disk allocating writes,
// new objects and flattens answer ErrNoSpace.
//
// # Checksums and scrub
//
// A sealed layer that was left alone for a minute gets a file with the CRC-32C of each of
// its data blocks, written anew and put in place at once. A scrub reads, past the page
// cache where it can, all data of sealed layers, compares it with what checksums there
// are, and computes those that are missing; it checks all maps, those of heads too. It
// takes no claim on a layer: what a job changed beside it is read again. A merge forgets
// the checksums of both its layers before it changes them. What is found is reported, in
// Status until a scrub has looked again, and the job fails; the block is served as it is.
//
// Not detected is what changes in a head; between a write and the reading after the seal;
// between a merge, which may have copied what was wrong already, and the next reading;
// and, with checksums lost as well, before that. Data that is read for clients is not
// compared.
//
// # What it does not do
//
// It keeps no second copy, and repairs no data. It does not hold writes on a full
// disk, rebuild a lost catalogue, or cut connections: that is the business of its users.
// It does not protect a directory from a second machine that shares it.
package layered
