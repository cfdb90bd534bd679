package store_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
)

func TestNewID(t *testing.T) {
	seen := make(map[store.ID]bool)
	for range 1000 {
		id := store.NewID()
		if !store.IsID(string(id)) || id[14] != '4' || !strings.ContainsRune("89ab", rune(id[19])) {
			t.Fatalf("%q is no UUID of version 4", id)
		}
		if seen[id] {
			t.Fatalf("%q came twice", id)
		}
		seen[id] = true
	}
}

func TestIsID(t *testing.T) {
	const id = "0b2c4d6e-1f3a-4b5c-8d7e-9fa0b1c2d3e4"
	if !store.IsID(id) {
		t.Errorf("%q is refused", id)
	}
	for _, s := range []string{
		"", id[:35], id + "0", strings.ToUpper(id), "0b2c4d6e1f3a-4b5c-8d7e-9fa0b1c2d3e4-", "-" + id[1:],
		strings.Replace(id, "0", "g", 1), strings.Replace(id, "-", "0", 1), "{" + id[:34] + "}",
		"ü" + id[2:],
	} {
		if store.IsID(s) {
			t.Errorf("%q is accepted", s)
		}
	}
}

func TestValidateName(t *testing.T) {
	for _, name := range []string{
		"a", "0", "pvc-1", "a b", "...", "a.b", "a-", "Käse", "日本", "e\u0301", strings.Repeat("a", store.MaxName),
	} {
		if err := store.ValidateName(store.KindImage, name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{
		"", strings.Repeat("a", store.MaxName+1), ".", "..", "-a", " a", "a ", "\ta", "a\u00a0", "a/b", `a\b`, "a@b",
		"a\x00", "a\n", "a\x7f", "\x1b", "a\u200b", "\u202ea", "a\ufeff", "a\u2028b", "a\xff", "\xc3\x28", "a\u0085b",
		"0b2c4d6e-1f3a-4b5c-8d7e-9fa0b1c2d3e4",
	} {
		err := store.ValidateName(store.KindSnapshot, name)
		if !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		} else if strings.ContainsAny(err.Error(), "\x00\n\x1b\x7f\u200b\u202e") || len(err.Error()) > 300 {
			t.Errorf("the refusal of %q is not fit to print: %q", name, err)
		}
	}
}

func TestValidateSize(t *testing.T) {
	for size, want := range map[int64]error{
		store.Block: nil, 2 * store.Block: nil, store.MaxSize: nil,
		0: store.ErrRange, -store.Block: store.ErrRange, store.MaxSize + store.Block: store.ErrRange,
		1: store.ErrInvalid, 512: store.ErrInvalid, store.Block + 1: store.ErrInvalid, store.MaxSize - 1: store.ErrInvalid,
	} {
		if err := store.ValidateSize(size); !errors.Is(err, want) {
			t.Errorf("%d: %v, want %v", size, err, want)
		}
	}
}

func TestValidateBlockSize(t *testing.T) {
	for n, ok := range map[int]bool{512: true, 4096: true, 0: false, -512: false, 1024: false, 2048: false, 8192: false} {
		if err := store.ValidateBlockSize(n); (err == nil) != ok || err != nil && !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%d: %v", n, err)
		}
	}
}

func TestValidatePolicy(t *testing.T) {
	for p, ok := range map[store.Policy]bool{
		{}: true, {Soft: 1}: true, {Hard: 1}: true, {Soft: 100}: true, {Soft: 4, Hard: 4}: true, {Soft: 4, Hard: 14}: true,
		{Soft: -1}: false, {Hard: -1}: false, {Soft: 5, Hard: 4}: false,
	} {
		if err := store.ValidatePolicy(p); (err == nil) != ok || err != nil && !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

func TestSplitRef(t *testing.T) {
	for ref, want := range map[string][2]string{"img": {"img", ""}, "img@snap": {"img", "snap"}, "a b@c d": {"a b", "c d"}} {
		image, snapshot, err := store.SplitRef(ref)
		if err != nil || image != want[0] || snapshot != want[1] {
			t.Errorf("%q: %q %q %v", ref, image, snapshot, err)
		}
	}
	for _, ref := range []string{"", "@", "img@", "@snap", "a@b@c", "a/b", "img@../x", "img@ s"} {
		if _, _, err := store.SplitRef(ref); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

func TestRef(t *testing.T) {
	img := store.Info{Kind: store.KindImage, Name: "img", ImageName: "img"}
	snap := store.Info{Kind: store.KindSnapshot, Name: "snap", ImageName: "img"}
	if img.Ref() != "img" || snap.Ref() != "img@snap" {
		t.Errorf("references are %q and %q", img.Ref(), snap.Ref())
	}
}

func TestSentinels(t *testing.T) {
	all := store.Sentinels()
	for i, a := range all {
		for j, b := range all {
			if errors.Is(a, b) != (i == j) || i != j && a.Error() == b.Error() {
				t.Errorf("%v and %v are not told apart", a, b)
			}
		}
	}
}
