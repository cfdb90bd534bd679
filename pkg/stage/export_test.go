package stage

// SetCrash makes s call f at each point where a crash must do no harm.
func SetCrash(s *Service, f func(point string)) { s.point.crash = f }

// Points records the points that s passes.
func Points(s *Service, to *[]string) {
	s.point.crash = func(p string) { *to = append(*to, p) }
}
