package stage

import (
	"context"

	"github.com/strata-csi/strata/pkg/attach"
)

// renewIfOld replaces a link whose key has served for as many bytes as it may.
func (s *Service) renewIfOld(v *volume, r *record) {
	moved, err := s.cfg.Kernel.Moved(r.device())
	if err != nil || moved-r.KeyBase < s.cfg.KeyLimit || !v.conn.begin() {
		return
	}
	if !s.start(func() {
		defer v.conn.end()
		if err := s.renew(v); err != nil && v.conn.fail(err) {
			s.tell(v, LinkRetry, 0, err)
		}
	}) {
		v.conn.end()
	}
}

// renew replaces a link that works. Should it be cut and not replaced, the socket that
// has hung up tells.
func (s *Service) renew(v *volume) error {
	leave, err := v.take(s.quit)
	if err != nil {
		return err
	}
	defer leave()
	r := v.record()
	if !r.linked() {
		return nil
	}
	ctx, cancel := s.bound(s.quit)
	defer cancel()
	var fresh *link
	defer func() {
		if fresh != nil {
			fresh.close()
		}
	}()
	err = s.cfg.Kernel.Replace(ctx, r.device(), func(ctx context.Context) (attach.Request, error) {
		if fresh != nil {
			fresh.close()
			fresh = nil
		}
		conn, _, err := s.find(ctx, r.Ticket)
		if err != nil {
			return attach.Request{}, err
		}
		if fresh, err = s.dial(ctx, v, conn); err != nil {
			return attach.Request{}, err
		}
		return attach.Request{Socket: fresh.give()}, nil
	})
	if err != nil {
		return err
	}
	if err := s.adopted(v, r, fresh); err != nil {
		return err
	}
	s.tell(v, LinkRenewed, 0, nil)
	return nil
}
