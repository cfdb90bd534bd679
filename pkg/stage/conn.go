package stage

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// connState is what the process knows of a volume's link, beside the record.
type connState struct {
	looking atomic.Bool // a statfs is under way
	asking  atomic.Bool // the store is being asked for the link

	mu      sync.Mutex
	sock    *os.File // a descriptor of the socket that the kernel has; nil: not known
	lost    time.Time
	problem string
	busy    bool // somebody restores the link, or ends the device
	ended   bool // the device of a fenced volume was ended
	left    bool // the device is being disconnected, or was
	checked time.Time
}

// up notes that the volume's device has the link, whose watched descriptor it takes.
func (s *Service) up(v *volume, l *link) {
	s.down(v)
	c := &v.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.hangs.add(l.watched, v.id) == nil { // else the store will tell instead
		c.sock, l.watched = l.watched, nil
	}
}

// down forgets the link's descriptor.
func (s *Service) down(v *volume) {
	c := &v.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sock != nil {
		s.hangs.remove(c.sock)
		_ = c.sock.Close()
		c.sock = nil
	}
}

// hungUp tells whether the link's socket has ended, and whether one is known.
func (c *connState) hungUp() (ended, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sock == nil {
		return false, false
	}
	p := []unix.PollFd{{Fd: int32(c.sock.Fd()), Events: unix.POLLRDHUP}} // #nosec G115 -- an open descriptor
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0, true
}

// begin makes the caller the only one who works on the link.
func (c *connState) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy {
		return false
	}
	c.busy = true
	return true
}

func (c *connState) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = false
}

// lose notes that the link is down, and tells whether that is news.
func (c *connState) lose() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.lost.IsZero() {
		return false
	}
	c.lost = time.Now()
	return true
}

// fail notes why an attempt failed, and tells whether that is news.
func (c *connState) fail(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := err.Error()
	news := c.problem != text
	c.problem = text
	return news
}

// back notes that the link is up, and tells for how long it was down; 0 if it was not.
func (c *connState) back() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	var after time.Duration
	if !c.lost.IsZero() {
		after = time.Since(c.lost)
	}
	c.lost, c.problem = time.Time{}, ""
	return after
}

// fine notes that nothing is wrong with the link.
func (c *connState) fine() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost.IsZero() {
		c.problem = ""
	}
}

// due tells whether it is time to look at a link again, and notes that it is done.
func (c *connState) due(every time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) < every {
		return false
	}
	c.checked = time.Now()
	return true
}

// reset forgets what was before the volume was made anew.
func (c *connState) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost, c.problem, c.ended, c.left = time.Time{}, "", false, false
}

// leave notes that the device is being disconnected, so that nobody connects it again.
func (c *connState) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = true
}

func (c *connState) leaving() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.left
}

// setEnded notes that the device of a fenced volume is ended, or has yet to be.
func (c *connState) setEnded(ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = ended
}

func (c *connState) health(r *record) Health {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Health{Fenced: r.Fenced, Lost: c.lost, Problem: c.problem}
}
