// Package volume holds the use-cases of a controller: volumes and snapshots over the
// stores of a pool. It decides where a volume is made, makes every request repeatable,
// finds what an id stands for, and copies data between stores where a clone cannot stay
// with its source. It knows neither CSI nor gRPC.
//
// # Terms
//
//   - volume: an image, seen from outside. Its id names pool and image, and as a hint the
//     store it was made on; the truth is asked.
//   - anchor: the store whose notebook decides where a volume is made. For a clone it is
//     its source's store; else it follows from the volume's name and the members of the
//     pool.
//   - near: a request may say how far nodes are from where its volume is wanted. It is a
//     wish: the nearest store with room gets a new volume, any other will do, and a clone
//     stays with its source.
//   - copy: a volume under way from one store to another. It has an image, and a note
//     that says so; without the note it is a volume like any other.
//
// # What is durable
//
// A controller keeps nothing. In the notebooks of stores are
//
//	fwd/<image>            on the anchor: UUID of the store the volume is made on, if
//	                       that is not the anchor
//	copy/<image>           on the copy's store: source and progress, see copyRecord
//	pub/<image id>/<node>  on the image's store: what the publication was asked for
//	snap/<name>            on the source's store: image id and snapshot id
//	node/<name>            on every store, written by nodes: what a node can take
//
// # Invariants
//
//   - A request repeated after any failure, by any controller, ends in the same volume. A
//     store is left for the next only after it has answered that it is full, and the note
//     that says so is durable before the next one is asked.
//   - An id is unknown (store.ErrNotFound, a delete that succeeds) only if every store
//     that may have it has answered, and has proved to be itself.
//   - One request works on an object at a time, another one gets store.ErrBusy. Work goes
//     on when its caller's context ends.
//
// One gap is left. The anchor follows from who is a member. If an answer is lost, then
// the store that made the volume goes away, and then another store joins and becomes the
// anchor of that name, all before the request is repeated, the volume is made again; the
// first one is found as an image without a volume when its store is back.
//
// What it does not do: it attaches nothing, talks to no kernel, and follows no clock to
// give up on a store; an operator forgets stores (package pool).
package volume
