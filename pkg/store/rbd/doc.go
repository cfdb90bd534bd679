// Package rbd is the distributed backend: a store.Full whose images are RBD images in a
// Ceph cluster. It is built with the tag ceph (and pacific, ceph_preview for Debian 12's
// librbd); other builds have an Open that says so.
//
// # Terms
//
//   - installation: what shares one catalogue in a pool. Everything it makes there has
//     a name that begins with "strata." and the installation's name.
//   - catalogue: one object with all rows (package meta); its data is the generation.
//   - member: a gateway of the installation. It runs jobs and carries out changes.
//   - intent: the row of a change of several steps. It is taken back or carried on by
//     whoever finds its member gone.
//   - lease: a lock with a time limit that tells others that a member lives. Only what one
//     without a lease has left unfinished is taken over.
//   - adopted: an image that others have made and that is the installation's since then. It
//     keeps its name; a mark in its header says whose it is.
//   - cut: a clone link that a flatten has cut while gateways may still read past it.
//   - handle: an image or snapshot that this process has open, shared by all its users.
//
// # Invariants
//
//   - What the catalogue says has happened, wholly. A change is begun by a row and ended
//     by another commit; in between nobody sees it.
//   - Before a member takes over what another one left, the other is fenced: its client
//     is on the cluster's blocklist, so nothing of it takes effect any more.
//   - The library's cache is off, so an answered write is in the cluster.
//   - A snapshot with clones is never removed in the cluster, only hidden: so cutting a
//     clone link takes no parent snapshot with it, and a flatten killed between its last
//     two steps can be done again. An image that nobody sees lies in the cluster's trash.
//   - What was a parent stays until every member has opened anew what descends from the
//     flattened image: librbd does not tell an open image that its grandparent's link was
//     cut, and would read zeros where the old parent was.
//   - A roll-back that was interrupted is done again only after the image's object map was
//     made true: librbd replaces the map first and trusts it then.
//   - Nothing that belongs to others is changed or deleted: neither what an adopted image was
//     cloned from, nor what others have cloned from it. Those keep it, hidden, in the trash.
//   - A clone link that others cut above an adopted image is looked for every second, and
//     taken for a cut of ours: what is open below is opened anew.
//   - Nothing copies data within a request. Flatten and deletion are jobs.
//
// # What librbd makes different from the embedded store
//
//   - Unit of copying, sharing and accounting is the object, 4 MiB by default: Usage is
//     coarse, and the first write to a part of a clone brings the whole object along.
//   - Diffs and extents are exact to the block, but found by comparing the bytes of the
//     objects that the object maps name.
//   - A flatten that is told to stop keeps what it has copied, and passes over it when it
//     runs again. It is slowed down by the library's own limit of objects in flight only.
//   - The size of objects is fixed when an image is made, and an object map holds 256
//     million of them; larger images are given larger objects.
//   - Calls wait for the cluster beyond the end of their context.
//   - Rolling back takes time in proportion to the image's size.
package rbd
