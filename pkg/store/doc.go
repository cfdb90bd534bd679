// Package store is the vocabulary of strata: images, snapshots and clones, the
// interfaces every backend implements, and the errors they answer with.
//
// # Terms
//
//   - image: a named, resizable block device.
//   - snapshot: a frozen, named point in an image's history. It outlives its image.
//   - clone: an image whose parent is a snapshot. Cloning an image first takes an
//     internal snapshot, shared by all clones made while the image is unchanged.
//   - depth: the number of clone links from an image up to the root. Snapshots of
//     one image add none. An image with no parent has depth 0.
//   - flatten: copy (or share) what is inherited and cut the clone link.
//   - overlap: how many bytes of the parent are visible in the child, counted from
//     offset 0. It only ever shrinks.
//   - publication: the right of one node to an image; it carries an epoch (public,
//     rising) and a token (secret).
//
// # Invariants
//
//   - Images, snapshots and clones have independent lives and may be removed in any
//     order; a published image or snapshot refuses (ErrInUse).
//   - Names are data, never paths. ValidateName says which are accepted.
//   - Sizes are multiples of Block, at least Block and at most MaxSize.
//   - Creating with the name of an existing object answers ErrConflict, or the
//     existing object if Spec.Digest is set and equal.
//
// # Lock order
//
// name, then image id in ascending order, then device, then catalogue transaction.
// No data I/O, process or network call happens inside a catalogue transaction.
//
// The package imports the standard library only.
package store
