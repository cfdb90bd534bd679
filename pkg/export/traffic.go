package export

import (
	"cmp"
	"slices"
	"sync/atomic"

	"github.com/strata-csi/strata/pkg/store"
)

// Traffic is what clients have done with one image or snapshot since somebody began
// to use it. It starts again from 0 after nobody did.
type Traffic struct {
	ID store.ID
	// Name is the object's as of the last time it was opened.
	Name string
	// Reads, Writes, Flushes and Discards (zeroing included) are requests that ended
	// well; Errors are those that did not.
	Reads, Writes, Flushes, Discards, Errors int64
	// ReadBytes and WrittenBytes are what they carried.
	ReadBytes, WrittenBytes int64
	// Connections that are open now, and Opened since the beginning: each attach and
	// each reconnect is one.
	Connections, Opened int64
}

// traffic counts for one object. It costs an atomic addition or two a request.
type traffic struct {
	name                                     atomic.Pointer[string]
	reads, writes, flushes, discards, errors atomic.Int64
	readBytes, writtenBytes                  atomic.Int64
	connections, opened                      atomic.Int64
}

// begin counts a connection.
func (t *traffic) begin(name string) {
	t.name.Store(&name)
	t.connections.Add(1)
	t.opened.Add(1)
}

func (t *traffic) end() { t.connections.Add(-1) }

// count counts one request, and bytes if there are any to count.
func (t *traffic) count(what, bytes *atomic.Int64, n int64, err error) error {
	if err != nil {
		t.errors.Add(1)
		return err
	}
	what.Add(1)
	if bytes != nil {
		bytes.Add(n)
	}
	return nil
}

func (t *traffic) snapshot(id store.ID) Traffic {
	s := Traffic{
		ID: id, Reads: t.reads.Load(), Writes: t.writes.Load(), Flushes: t.flushes.Load(),
		Discards: t.discards.Load(), Errors: t.errors.Load(),
		ReadBytes: t.readBytes.Load(), WrittenBytes: t.writtenBytes.Load(),
		Connections: t.connections.Load(), Opened: t.opened.Load(),
	}
	if name := t.name.Load(); name != nil {
		s.Name = *name
	}
	return s
}

// Traffic lists what is in use, in the order of ids.
func (r *Registry) Traffic() []Traffic {
	r.mu.Lock()
	var all []Traffic
	for id, o := range r.objects {
		all = append(all, o.traffic.snapshot(id))
	}
	r.mu.Unlock()
	slices.SortFunc(all, func(a, b Traffic) int { return cmp.Compare(a.ID, b.ID) })
	return all
}
