//go:build ceph

package rbd

import (
	"fmt"
	"strings"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

const (
	leastObject = 4 << 10
	mostObject  = 32 << 20
)

// filled checks the options and fills what they leave open.
func (o Options) filled() (Options, error) {
	set := func(s *string, to string) {
		if *s == "" {
			*s = to
		}
	}
	set(&o.Installation, "default")
	set(&o.Member, "gateway")
	set(&o.User, "admin")
	if o.ObjectSize == 0 {
		o.ObjectSize = 4 << 20
	}
	if o.Lease <= 0 {
		o.Lease = time.Minute
	}
	if o.InFlight <= 0 {
		o.InFlight = 64
	}
	o.Policy = fill(o.Policy, store.Policy{Soft: DefaultSoft, Hard: DefaultHard})
	strange := func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-", r)
	}
	switch {
	case o.Pool == "":
		return o, fmt.Errorf("no pool is named: %w", store.ErrInvalid)
	case len(o.Installation) > 40 || strings.ContainsFunc(o.Installation, strange):
		return o, fmt.Errorf("installation %q: want 1 to 40 letters, digits and '-': %w", o.Installation, store.ErrInvalid)
	case len(o.Member) > store.MaxName:
		return o, fmt.Errorf("member name of %d bytes, at most %d are allowed: %w", len(o.Member), store.MaxName, store.ErrInvalid)
	case o.ObjectSize < leastObject || o.ObjectSize > mostObject || o.ObjectSize&(o.ObjectSize-1) != 0:
		return o, fmt.Errorf("object size %d: want a power of two from %d to %d: %w", o.ObjectSize, leastObject, mostObject, store.ErrInvalid)
	}
	return o, store.ValidatePolicy(o.Policy)
}

// fill takes from d what p leaves open; what p says is never contradicted.
func fill(p, d store.Policy) store.Policy {
	if p.Soft == 0 {
		p.Soft = d.Soft
		if p.Hard != 0 {
			p.Soft = min(p.Soft, p.Hard)
		}
	}
	if p.Hard == 0 {
		p.Hard = d.Hard
	}
	p.Hard = max(p.Hard, p.Soft)
	return p
}
