package nbd

// begin marks the start of an inline call and returns its number. What the driver
// knows at this moment (the turn, the mark) is what a stand-in takes over; from now
// on nothing of the driver's may be touched until finishCall agrees.
func (s *session) begin() (word uint64) {
	s.mark = len(s.t.out)
	s.word++
	word = s.word
	s.call.Store(word)
	// The store comes before the load here, and the watch clears the flag before
	// it looks at the word: one of the two sees the other.
	if !s.armed.Load() && s.armed.CompareAndSwap(false, true) {
		s.watch.Reset(standInTick)
	}
	return word
}

// finishCall marks the end of the call numbered word; false if a stand-in has
// become the driver, in which case nothing of the driver's may be touched.
func (s *session) finishCall(word uint64) bool {
	if !s.call.CompareAndSwap(word, word+1) {
		return false
	}
	s.word = word + 1
	return true
}

// retire frees the turn of a former driver, once the stand-in has copied from it.
func (s *session) retire(t *turn) {
	s.mu.Lock()
	s.freeTurn(t)
	s.mu.Unlock()
	<-s.slots
}

// look is called by the watch. It runs once per tick while requests are handled
// inline and stops by itself when there are none.
func (s *session) look() {
	word := s.call.Load()
	if word != s.seen {
		s.seen = word
		s.watch.Reset(standInTick)
		return
	}
	if word%2 == 1 {
		s.replace(word)
		s.watch.Reset(standInTick)
		return
	}
	s.armed.Store(false)
	if s.call.Load() != word && s.armed.CompareAndSwap(false, true) {
		s.watch.Reset(standInTick)
	}
}

// replace makes a new goroutine the driver while the present one is stuck in the
// call numbered word. Without a free turn or slot the connection just waits.
func (s *session) replace(word uint64) {
	select {
	case s.slots <- struct{}{}:
	default:
		return
	}
	t := s.mem.tryTurn(s.conn.peer)
	if t == nil {
		<-s.slots
		return
	}
	s.held[turns].Add(turnCost)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || !s.call.CompareAndSwap(word, word+1) {
		s.freeTurn(t)
		<-s.slots
		return
	}
	old := s.t
	t.w = copy(t.in, old.in[old.r:old.w])
	t.out = append(t.out, old.out[:s.mark]...)
	s.t, s.word, s.slow = t, word+1, slowRequests
	s.live++
	go s.standIn()
}

// standIn sends what the former driver had ready and drives on.
func (s *session) standIn() {
	s.flush()
	s.drive()
}
