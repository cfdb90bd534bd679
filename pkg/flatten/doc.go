// Package flatten is the depth policy: how deep chains of clones may grow, and which
// image to flatten when one grows too deep. It is pure: it reads no clock, no disk
// and no state, so a store calls it inside the transaction that creates a clone.
//
// # Terms
//
//   - depth: clone links from an image up to the root; a root has depth 0.
//   - soft limit: above it a clone is made and a flatten is queued with it.
//   - hard limit: above it a clone is refused until a flatten is done.
//   - goal: the depth that a flatten should bring the new image to, half the soft
//     limit, but at least 1.
//   - path: the new image, its parent, and so on up to the root, removed images
//     included.
//
// # The choice
//
// A flatten of the image i links above the new one leaves the new image, and all
// its siblings below i, at depth i. So every image within the goal will do, and the
// cheapest is taken; among equals the one nearest the root, because it helps the
// most descendants. Going down to half the limit leaves room for as many
// generations again before the next flatten.
//
// A goal of 0 would mean that each clone is flattened itself, a hundred times for a
// hundred clones; that is why it is never below 1.
//
// A queued flatten costs nothing more. If one brings the new image to the soft
// limit or less, nothing is added, else each of a hundred clones made while it runs
// would add one.
//
// # What it does not do
//
// It keeps no queue (pkg/jobs) and moves no data (the store).
package flatten
