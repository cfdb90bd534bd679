// Package kube tells the users of a cluster what happens to their volumes: as events on
// the PersistentVolumeClaim, the VolumeSnapshot or, where neither is known, the node. It
// is the only package that knows client-go.
//
// # Terms
//
//   - notice: something that a user should see; what it is about is told in terms of the
//     stores (an image's name and id), or by the CO's handle.
//   - event: the object in the cluster that a notice becomes.
//   - watcher: follows the flattens of stores and makes notices of them.
//
// # Invariants
//
//   - Nothing depends on the cluster's API. Recorder.Tell never waits; the queue behind it
//     is bounded, and what does not fit is dropped and counted. Without an answer events are
//     tried again at growing intervals, and given up when they are old.
//   - The same notice becomes the same event, whoever tells it and how often: its name
//     follows from its key. So two controllers that see one flatten tell it once, and a
//     restart repeats nothing.
//   - Objects are asked for by name, since provisioner and snapshotter name volumes and
//     snapshots after them, and are used only if their driver and handle are the right ones.
//     Only volumes that were not made by the provisioner are looked for in a list, and
//     seldom. There are no watches on the cluster and no copies of it.
//   - Close ends every goroutine, at once.
//
// It changes nothing in the cluster but events, decides nothing, and logs nothing: the
// process is told of errors by a function.
package kube
