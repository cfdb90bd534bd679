// Package meta is the catalogue of the embedded store: which images, snapshots and
// layers exist, how they hang together, and which multi-step changes and jobs are
// under way. It is one bbolt file and the only package that knows bbolt.
//
// # Terms
//
//   - layer: one data file with its block map, named by a [LayerID] that is never
//     reused. The head of an image is writable, every other layer is sealed.
//   - root of an image: its bottom own layer. The root's parent, if any, belongs to
//     another image: that edge is the clone link.
//   - tombstone: the row of a removed image of which a layer is still needed.
//   - scratch: an image that is the private head of a publication. It has no place
//     among the names and is not counted.
//   - intent: a multi-step change that start-up must finish or undo.
//   - reservation: layer ids handed out before the transaction that binds them, so
//     that files can be made outside of transactions and orphans found by id.
//   - mark: a small durable value of the engine under a key of its choice.
//   - note: a mark of the store's users. Its key begins with "note/", which no mark of
//     the engine does.
//
// # Invariants
//
//   - A transaction is all or nothing, and durable when Update returns nil.
//   - Every index is written in the transaction that writes its row; [Tx.Verify]
//     proves that they agree.
//   - Counts, child lookups and reference tests cost O(answer), never O(catalogue).
//   - Damage is answered with store.ErrCorrupt: Open walks the structure of the file
//     before it is used (it reads it once), and every row carries a checksum over its
//     key and content. What neither shows, Verify does.
//
// # Transactions
//
// View and Update may be called concurrently; updates run one after the other. An
// Update that wrote nothing commits nothing and costs no sync. After a commit whose
// outcome is unknown (a failed sync) every later Update is refused until the
// catalogue is opened again. Inside a transaction there must be no I/O but the
// catalogue's own, and no second transaction by the same goroutine.
//
// # On disk
//
// Top-level buckets; integers in keys and rows are big-endian.
//
//	bucket      key                        value
//	format      "version"                  text
//	format      "uuid"                     row, text
//	state       "next" "reserved"          row, u64: next layer id, start of the reservation
//	images      image id                   row, JSON of Image
//	names       image name                 image id; live images only, no scratch
//	removed     image id                   empty; tombstones and scratch only
//	roots       image id                   u64: the image's root layer
//	snapshots   snapshot id                row, JSON of Snapshot
//	snapnames   u16 n, n bytes image id, snapshot name   snapshot id
//	snaplayers  u64 layer, snapshot id     empty
//	layers      u64 layer                  row, see below
//	children    u64 parent, u64 child      empty
//	ownlayers   u16 n, n bytes image id, u64 layer       empty
//	intents     u64 id                     row, JSON of Intent
//	pubs        u16 n, n bytes object id, node           row, JSON of Publication
//	jobs        job id                     row, opaque
//	marks       key                        row, opaque; a note under "note/" and its key
//
// The bucket sequence of names, snapshots and layers counts their entries; that of
// intents is the last id given. A row is a CRC-32C (u32) of key and content, then
// the content. The content of a layer row:
//
//	offset  size  field
//	0       8     parent layer, 0 for none
//	8       8     overlap, bytes
//	16      8     size, bytes
//	24      8     data blocks
//	32      8     other side of a merge, 0 for none
//	40      8     top layer of the merged index that covers it, 0 for none
//	48      1     flags: bit 0 sealed
//	49      rest  image id
//
// # What it does not do
//
// It opens no layer, decides no policy and interprets no job. It does not repair: a
// damaged catalogue is rebuilt from layer headers by the engine.
package meta
