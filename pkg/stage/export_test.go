package stage

import (
	"context"

	utilexec "k8s.io/utils/exec"
)

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

// NewPrograms is newPrograms.
func NewPrograms(ctx context.Context, group string) (utilexec.Interface, error) {
	return newPrograms(ctx, group)
}
