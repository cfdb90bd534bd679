package stage

// ErrProbe is errProbe.
var ErrProbe = errProbe

// SetCrash makes s call f at each point where a crash must do no harm; nil ends that.
func SetCrash(s *Service, f func(point string)) {
	if f == nil {
		s.point.crash.Store(nil)
		return
	}
	s.point.crash.Store(&f)
}
