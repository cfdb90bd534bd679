package store

import "context"

// Scrubber is a store that can read all it holds in the background and tell what is
// wrong with it.
type Scrubber interface {
	// StartScrub queues a scrub of the whole store and returns its job at once, or the
	// one that is there already. The job is durable, paced and steered as any other. It
	// fails if it found damage; what it found is in Status.Faulty until another scrub
	// has looked again.
	StartScrub(ctx context.Context) (Job, error)
}
