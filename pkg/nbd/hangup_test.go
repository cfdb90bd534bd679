package nbd

import (
	"runtime"
	"strings"
	"testing"
)

// goroutines counts those that are inside all of the functions named.
func goroutines(inside ...string) int {
	buf := make([]byte, 4<<20)
	n := 0
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		all := true
		for _, f := range inside {
			all = all && strings.Contains(stack, "pkg/nbd."+f+"(")
		}
		if all {
			n++
		}
	}
	return n
}

const (
	reads = "(*inlet).attempt"
	sends = "(*outlet).send"
)

// endsWithPeer closes a client's connection and waits for the server's end of it.
func (r *rig) endsWithPeer(t *testing.T, w *wire) {
	t.Helper()
	w.Close()
	eventually(t, "the server's end of a closed connection is closed", func() bool { return r.srv.Stats().Conns == 0 })
}

// burst is small reads that arrive together, with more before them: the reader keeps the
// replies to such until there is nothing to read.
func burst(before ...byte) []byte {
	return append(before, append(header(0, cmdRead, 2, 0, 8192), header(0, cmdRead, 3, 0, 8192)...)...)
}

// fillSocket sends bursts until the reader cannot get rid of a reply.
func (r *rig) fillSocket(t *testing.T, w *wire) {
	t.Helper()
	for range 1000 {
		if goroutines(reads, sends) > 0 {
			return
		}
		before := r.d.calls.Load()
		w.send(burst())
		eventually(t, "the requests are served, or the reader replies to an earlier one", func() bool {
			return r.d.calls.Load() == before+2 || goroutines(reads, sends) > 0
		})
	}
	t.Fatal("the socket takes replies without end")
}

// The reader sends what is ready before it waits. If that fails, the reader ends the
// connection, and not itself with it.
func TestPeerGoesWhileTheReaderReplies(t *testing.T) {
	r := newRig(t, testSize, Config{})
	w := r.simple()
	r.fillSocket(t, w)
	r.endsWithPeer(t, w)
}

// Somebody else fails to send while the reader waits for its turn to.
func TestPeerGoesWhileTheReaderWaitsToReply(t *testing.T) {
	r := newRig(t, testSize, Config{})
	w := r.simple()
	w.send(burst())
	w.skip(2 * (simpleSize + 8192))
	w.send(burst(header(0, cmdRead, 1, 0, 1<<20)...))
	eventually(t, "a large reply waits for the peer", func() bool { return goroutines("(*session).work", sends) == 1 })
	r.fillSocket(t, w)
	r.endsWithPeer(t, w)
}
