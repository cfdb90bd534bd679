// Package size reads and prints sizes as people type them: "10G", "1.5T", "4096".
//
// Units are powers of 1024, with or without "iB": K, M, G, T, P. "GB" is refused,
// because half of its readers mean 1000. A value is exact or an error: nothing is
// rounded silently. It does not know which sizes a store has room for.
package size

import (
	"fmt"
	"math/big"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
)

const units = "KMGTP"

// Parse returns the size in bytes, a multiple of store.Block from store.Block to
// store.MaxSize. ErrRange or ErrInvalid; the text of a size that is nearly right
// proposes the next valid one.
func Parse(s string) (int64, error) {
	exact, err := parse(s)
	if err != nil {
		return 0, err
	}
	if exact.Sign() <= 0 {
		return 0, fmt.Errorf("size %q is not positive: %w", s, store.ErrRange)
	}
	if exact.Cmp(new(big.Rat).SetInt64(store.MaxSize)) > 0 {
		return 0, fmt.Errorf("size %q exceeds the limit of %s: %w", s, Exact(store.MaxSize), store.ErrRange)
	}
	// Whole bytes, then blocks; num <= MaxSize*denom, so the quotient fits.
	n := new(big.Int).Quo(exact.Num(), exact.Denom()).Int64()
	if exact.IsInt() && n%store.Block == 0 {
		return n, nil
	}
	next := RoundUp(n + 1)
	if exact.IsInt() {
		next = RoundUp(n)
	}
	return 0, fmt.Errorf("size %q is not a multiple of %d bytes; the next valid size is %s: %w",
		s, store.Block, Exact(next), store.ErrInvalid)
}

// parse reads a decimal number and a unit.
func parse(s string) (*big.Rat, error) {
	number, unit := s, ""
	if i := strings.IndexFunc(s, func(r rune) bool { return !strings.ContainsRune("+-.0123456789", r) }); i >= 0 {
		number, unit = s[:i], s[i:]
	}
	shift, ok := shiftOf(unit)
	// The length bound keeps a hostile number from costing time; MaxSize has 16 digits.
	if !ok || number == "" || len(number) > 64 || strings.HasSuffix(number, ".") || strings.HasPrefix(number, ".") {
		return nil, malformed(s)
	}
	r, ok := new(big.Rat).SetString(number)
	if !ok {
		return nil, malformed(s)
	}
	return r.Mul(r, new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), shift))), nil
}

func shiftOf(unit string) (uint, bool) {
	switch unit {
	case "", "B":
		return 0, true
	}
	at := strings.Index(units, strings.ToUpper(unit[:1]))
	if at < 0 || (len(unit) > 1 && unit[1:] != "iB") {
		return 0, false
	}
	return uint(at+1) * 10, true
}

func malformed(s string) error {
	if len(s) > 64 {
		s = s[:64] + "…"
	}
	return fmt.Errorf("size %q is not understood; write for example 4096, 512M, 10G or 1.5T (powers of 1024): %w", s, store.ErrInvalid)
}

// RoundUp returns the next multiple of store.Block, n itself if it is one.
func RoundUp(n int64) int64 {
	return (n + store.Block - 1) / store.Block * store.Block
}

// Exact prints n so that Parse reads the same value back: in the largest unit that
// divides it.
func Exact(n int64) string {
	at := 0
	for at < len(units) && n != 0 && n%1024 == 0 {
		n /= 1024
		at++
	}
	if at == 0 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d%c", n, units[at-1])
}

// Human prints n for people, with one decimal where it says something: "1.5 GiB".
func Human(n int64) string {
	if n < 1024 && n > -1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, at := float64(n)/1024, 0
	for (v >= 1023.95 || v <= -1023.95) && at < len(units)-1 {
		v /= 1024
		at++
	}
	text := strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	return fmt.Sprintf("%s %ciB", text, units[at])
}

// Value is a size given as a flag; it implements pflag.Value.
type Value struct {
	// Bytes is 0 until the flag is set.
	Bytes int64
}

// String implements pflag.Value.
func (v *Value) String() string {
	if v.Bytes == 0 {
		return ""
	}
	return Exact(v.Bytes)
}

// Set implements pflag.Value.
func (v *Value) Set(s string) (err error) {
	v.Bytes, err = Parse(s)
	return err
}

// Type implements pflag.Value.
func (*Value) Type() string { return "size" }
