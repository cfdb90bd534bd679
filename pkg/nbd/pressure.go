package nbd

import (
	"errors"
	"net"
	"strconv"
	"sync"
	"time"
)

// peer is one process or host with all of its connections.
type peer struct {
	key   string
	held  [kinds]tenant // each guarded by its part of the budget
	conns int           // guarded by Server.mu
}

// peerKey tells apart those who connect: processes on a unix socket, else hosts.
func (c *Conn) peerKey() string {
	if pid, ok := c.PeerPID(); ok {
		return "process " + strconv.Itoa(pid)
	}
	if host, _, err := net.SplitHostPort(c.RemoteAddr().String()); err == nil {
		return host
	}
	return c.RemoteAddr().String()
}

// join counts a connection among those of its peer; mu is held.
func (s *Server) join(key string) *peer {
	p := s.peers[key]
	if p == nil {
		p = &peer{key: key}
		s.peers[key] = p
	}
	p.conns++
	return p
}

// part undoes join; mu is held.
func (s *Server) part(p *peer) {
	if p.conns--; p.conns == 0 {
		delete(s.peers, p.key)
	}
}

// errInTheWay is why a connection was cut whose peer kept others waiting.
var errInTheWay = errors.New("the peer stalled while others waited for the memory it held")

// victim remembers the last connection that was cut for one kind of memory.
type victim struct {
	mu   sync.Mutex
	s    *session
	when time.Time
}

// relieve helps somebody who waits for memory of a kind: it cuts the connection
// that holds some and whose peer is behind the furthest, if that is for longer
// than a peer may be while others wait. With of it considers that peer alone. The
// next one is cut only when the memory of the last has come back.
func (s *Server) relieve(k kind, of *peer) {
	v := &s.victims[k]
	if !v.mu.TryLock() {
		return // somebody is at it
	}
	defer v.mu.Unlock()
	if v.s != nil && v.s.held[k].Load() > 0 && time.Since(v.when) < s.cfg.Impatience {
		return
	}
	v.s = s.furthestBehind(k, of)
	if v.s == nil {
		return
	}
	v.when = time.Now()
	v.s.conn.end(errInTheWay)
}

// furthestBehind finds the session that relieve is to cut, or nil.
func (s *Server) furthestBehind(k kind, of *peer) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found *session
	most := s.cfg.Impatience
	for c := range s.conns {
		ses := c.session.Load()
		if ses == nil || of != nil && c.peer != of || c.isCut() || ses.held[k].Load() == 0 {
			continue
		}
		if lag := max(ses.in.flow.lag(), ses.out.flow.lag()); lag > most {
			found, most = ses, lag
		}
	}
	return found
}
