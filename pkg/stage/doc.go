// Package stage holds the use-cases of a node: it makes an image that the controller
// has published to this node a kernel block device, puts a file system on it if that
// is safe, mounts it, hands it out to pods, grows it, and takes all that back. It
// knows neither CSI nor gRPC, and serves hosts without Kubernetes by the same path
// (Map, Unmap, List).
//
// Terms. A ticket is what the controller passes on of a publication. A record is the
// durable memory of one volume on this node; there is one file per volume. A link is
// the connection between a device and its store; each link has a generation, which is
// in the record before it is used. A target is a path at which a volume is published.
//
// Invariants:
//
//   - A step that changes the host is spoken of by a record that is durable before it.
//     So whatever a crash leaves is found again: the next call for the volume, or the
//     next Open, goes on from there or takes it back.
//   - A call that fails has undone what it did. Where undoing fails as well, the record
//     stays and the next call takes it up.
//   - One operation runs on a volume at a time; another one meanwhile is ErrBusy. An
//     operation that outlives its caller's context goes on, and holds the volume until
//     it has ended: no second mkfs ever starts beside one that hangs.
//   - Links have a lock of their own. A device is reconnected while a mount or mkfs on
//     it hangs; that is what makes them go on.
//   - This process reads and writes no device: who waits for a dead link in the kernel
//     cannot be killed, and this process must be free to bring the link back, or to be
//     started anew. Programs that do it are processes of their own, in a control group of
//     their own: see programs.go.
//   - An image is formatted only if nobody can have stored anything in it: see format.go.
//   - A device whose publication was withdrawn is fenced: durably marked, disconnected,
//     never connected again. Its I/O ends in errors instead of waiting for ever.
//
// The watcher (watch.go) keeps links alive: it learns of a dead one by the hang-up of
// its socket, or by asking the store where an earlier process made the link, and
// replaces it under a new generation, looking up the store anew each time.
//
// What it does not do: it stores no secrets outside the records (mode 0600), decides
// nothing about placement, does not load modules, and never touches devices whose
// backend identifier is not its own.
package stage
