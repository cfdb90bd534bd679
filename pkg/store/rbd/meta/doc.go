// Package meta is the catalogue of a Ceph backed store: what images, snapshots,
// publications, jobs, notes and intents there are. It knows nothing of Ceph; the rows
// live in a Log.
//
// # Terms
//
//   - row: a key and JSON; the kind of a row is the part of its key before the slash.
//   - generation: a number that each commit raises by one.
//   - Log: where the rows are, shared by all gateways of an installation. Commit
//     succeeds only if the generation is the one the change was decided on.
//   - making: an object whose parts in the cluster are not complete. It has a name, it
//     counts as a reference to its parent, and nobody sees it.
//   - removed: an object that nobody sees any more and that something still needs.
//   - adopted: made by others, and the installation's since then.
//   - foreign: an ancestor of an adopted image, which others have. Its row stands for a part
//     of a lineage only.
//   - garbage: what nothing needs and may be deleted from the cluster.
//
// # Invariants
//
//   - A transaction takes effect wholly or not at all, and only on the state it saw.
//   - A row of an image outlives the image in the cluster; so, adopted ones apart, what has no row and bears
//     the installation's prefix is a leak.
//   - An image's row stays while a row names it as parent, so lineage and depth are true
//     whatever was removed.
//   - Depth is walked, never stored.
//
// # What it does not do
//
// It moves no data and makes nothing in the cluster.
package meta
