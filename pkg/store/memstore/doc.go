// Package memstore is the reference backend: a store.Full kept in memory, written
// to be obviously right rather than fast. It is the oracle of package storetest and
// the fake of everything that needs a store.
//
// # Terms
//
//   - cell: what is known of one 4 KiB block: bytes, or "reads as zero". A cell never
//     changes; a write puts a new cell in its place.
//   - view: the bytes of one image or snapshot, as a map from block number to cell. A
//     missing cell is a block that was never stored and reads as zero.
//   - part: where a cell was stored. Every snapshot and clone link begins a new part
//     above the old one; a chain of parts is the history of a view.
//   - family: the lineage of one image: its parts, its snapshots, and its name, also
//     after the image was removed.
//
// # Invariants
//
//   - A view holds everything it shows. A snapshot or a clone copies the map, never the
//     cells, so removing one object cannot change what another shows.
//   - Parent data beyond the overlap is not in the child's map, so it cannot reappear.
//   - Two views of one family have the same cell for a block exactly if the block was
//     not written, zeroed, discarded or cut off between them. Diff rests on that;
//     flatten replaces cells, but by one replacement for all views.
//   - Depth is counted on the chain of parts, through removed images too. A backend
//     that merges what removed images leave behind may count less.
//
// # What it does not do
//
// Nothing is written to disk: a store lives as long as the process. Reopen stands for
// closing or crashing and opening again. Flatten jobs are done when they are made.
// Space is unlimited. Removed images keep their place in the depth of descendants
// until a flatten cuts it.
package memstore
