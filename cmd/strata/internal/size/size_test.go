package size

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]int64{
		"4096": 4096, "4096B": 4096, "4K": 4096, "4k": 4096, "4KiB": 4096, "1M": 1 << 20,
		"10G": 10 << 30, "10g": 10 << 30, "10GiB": 10 << 30, "1.5T": 3 << 39, "0.5G": 1 << 29,
		"1P": 1 << 50, "1024T": 1 << 50, "+8K": 8192, "1048576K": 1 << 30, "0.00390625M": 4096,
	} {
		if got, err := Parse(in); err != nil || got != want {
			t.Errorf("Parse(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for in, want := range map[string]struct {
		is   error
		text string
	}{
		"":                         {store.ErrInvalid, "not understood"},
		"G":                        {store.ErrInvalid, "not understood"},
		"ten":                      {store.ErrInvalid, "not understood"},
		"10GB":                     {store.ErrInvalid, "powers of 1024"},
		"10Gi":                     {store.ErrInvalid, "not understood"},
		"10 G":                     {store.ErrInvalid, "not understood"},
		"10G ":                     {store.ErrInvalid, "not understood"},
		"1e6":                      {store.ErrInvalid, "not understood"},
		"0x1000":                   {store.ErrInvalid, "not understood"},
		"1/2G":                     {store.ErrInvalid, "not understood"},
		"1.G":                      {store.ErrInvalid, "not understood"},
		".5G":                      {store.ErrInvalid, "not understood"},
		"1.2.3G":                   {store.ErrInvalid, "not understood"},
		"1_000K":                   {store.ErrInvalid, "not understood"},
		"--4K":                     {store.ErrInvalid, "not understood"},
		"4KK":                      {store.ErrInvalid, "not understood"},
		"4é":                       {store.ErrInvalid, "not understood"},
		"\x00":                     {store.ErrInvalid, "not understood"},
		strings.Repeat("9", 1000):  {store.ErrInvalid, "not understood"},
		"0":                        {store.ErrRange, "not positive"},
		"0G":                       {store.ErrRange, "not positive"},
		"-4096":                    {store.ErrRange, "not positive"},
		"-1G":                      {store.ErrRange, "not positive"},
		"1025T":                    {store.ErrRange, "limit of 1P"},
		"2P":                       {store.ErrRange, "limit of 1P"},
		"9223372036854775807":      {store.ErrRange, "limit of 1P"},
		"99999999999999999999999P": {store.ErrRange, "limit of 1P"},
		"1":                        {store.ErrInvalid, "next valid size is 4K"},
		"0.1":                      {store.ErrInvalid, "next valid size is 4K"},
		"4097":                     {store.ErrInvalid, "next valid size is 8K"},
		"4096.5":                   {store.ErrInvalid, "next valid size is 8K"},
		"1000000000":               {store.ErrInvalid, "next valid size is 976564K"},
		"0.3G":                     {store.ErrInvalid, "next valid size is 314576K"},
		"1125899906842623":         {store.ErrInvalid, "next valid size is 1P"},
	} {
		got, err := Parse(in)
		if !errors.Is(err, want.is) || !strings.Contains(err.Error(), want.text) || got != 0 {
			t.Errorf("Parse(%.40q) = %d, %v; want %v with %q", in, got, err, want.is, want.text)
		}
	}
}

func TestExactReadsBack(t *testing.T) {
	const seed = 7
	r := rand.New(rand.NewPCG(seed, seed))
	for range 10000 {
		n := r.Int64N(store.MaxSize>>r.IntN(38)/store.Block)*store.Block + store.Block
		if back, err := Parse(Exact(n)); err != nil || back != n {
			t.Fatalf("seed %d: Parse(Exact(%d) = %q) = %d, %v", seed, n, Exact(n), back, err)
		}
	}
}

func TestHuman(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1: "1 B", 1023: "1023 B", 1024: "1 KiB", 4096: "4 KiB", 1536: "1.5 KiB",
		10 << 30: "10 GiB", 1<<30 - 1: "1 GiB", 1<<50 + 1<<49: "1.5 PiB", 1 << 62: "4096 PiB",
	} {
		if got := Human(n); got != want {
			t.Errorf("Human(%d) = %q, want %q", n, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"10G", "1.5T", "4097", "-1", "9P", ".", "1e9", "4\xffK"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := Parse(s)
		if err == nil && store.ValidateSize(n) != nil {
			t.Errorf("Parse(%q) = %d, which is no valid size", s, n)
		}
		if err != nil && !errors.Is(err, store.ErrInvalid) && !errors.Is(err, store.ErrRange) {
			t.Errorf("Parse(%q): %v is not classified", s, err)
		}
	})
}
