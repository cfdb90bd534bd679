package size

import (
	"fmt"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
)

// Rate is bytes per second given as a flag, "10M" or "10M/s"; it implements
// pflag.Value. 0 is a rate like others.
type Rate struct{ Bytes int64 }

// String implements pflag.Value.
func (r *Rate) String() string {
	if r.Bytes == 0 {
		return ""
	}
	return Exact(r.Bytes)
}

// Set implements pflag.Value. ErrInvalid or ErrRange.
func (r *Rate) Set(s string) error {
	exact, err := parse(strings.TrimSuffix(s, "/s"))
	switch {
	case err != nil:
		return fmt.Errorf("rate %q is not understood; write for example 512K, 10M or 1.5G: %w", s, store.ErrInvalid)
	case exact.Sign() < 0:
		return fmt.Errorf("rate %q is negative: %w", s, store.ErrRange)
	case !exact.IsInt():
		return fmt.Errorf("rate %q is no whole number of bytes: %w", s, store.ErrInvalid)
	case exact.Num().BitLen() > 60:
		return fmt.Errorf("rate %q is more than any disk does: %w", s, store.ErrRange)
	}
	r.Bytes = exact.Num().Int64()
	return nil
}

// Type implements pflag.Value.
func (*Rate) Type() string { return "rate" }
