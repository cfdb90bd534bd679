package store

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// NewID returns a fresh random id (UUID version 4, RFC 9562 section 5.4).
func NewID() ID {
	var b [16]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	h := hex.EncodeToString(b[:])
	return ID(h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:])
}

// IsID tells whether s has the form of an id.
func IsID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range s {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (c == '-') || !dash && !strings.ContainsRune("0123456789abcdef", c) {
			return false
		}
	}
	return true
}

// ValidateName accepts valid UTF-8 of 1 to MaxName bytes without control or
// invisible characters, without '/', '\' and '@', not "." or "..", not starting with
// '-' or white space, not ending in white space, and not of the form of an id.
func ValidateName(kind Kind, name string) error {
	bad := func(why string) error {
		return fmt.Errorf("%s name %q %s: %w", kind, clip(name), why, ErrInvalid)
	}
	switch {
	case name == "":
		return bad("is empty")
	case len(name) > MaxName:
		return bad(fmt.Sprintf("is %d bytes long, at most %d are allowed", len(name), MaxName))
	case !utf8.ValidString(name):
		return bad("is not valid UTF-8")
	case name == "." || name == "..":
		return bad("is reserved")
	case IsID(name):
		return bad("has the form of an id")
	case strings.HasPrefix(name, "-"):
		return bad("starts with '-'")
	case strings.TrimSpace(name) != name:
		return bad("starts or ends with white space")
	}
	for _, r := range name {
		if strings.ContainsRune(`/\@`, r) || !unicode.IsPrint(r) {
			return bad(fmt.Sprintf("contains %q", r))
		}
	}
	return nil
}

// ValidateSize accepts multiples of Block from Block to MaxSize.
func ValidateSize(size int64) error {
	switch {
	case size <= 0:
		return fmt.Errorf("size %d is not positive: %w", size, ErrRange)
	case size > MaxSize:
		return fmt.Errorf("size %d exceeds the limit of %d bytes: %w", size, MaxSize, ErrRange)
	case size%Block != 0:
		return fmt.Errorf("size %d is not a multiple of %d: %w", size, Block, ErrInvalid)
	}
	return nil
}

// ValidateBlockSize accepts 512 and 4096.
func ValidateBlockSize(n int) error {
	if n != 512 && n != 4096 {
		return fmt.Errorf("block size %d is neither 512 nor 4096: %w", n, ErrInvalid)
	}
	return nil
}

// ValidatePolicy accepts Soft >= 1 and Hard >= Soft; zero means default.
func ValidatePolicy(p Policy) error {
	if p.Soft < 0 || p.Hard < 0 || p.Hard != 0 && p.Hard < p.Soft {
		return fmt.Errorf("clone depth limits soft %d, hard %d: want 1 <= soft <= hard: %w", p.Soft, p.Hard, ErrInvalid)
	}
	return nil
}

// SplitRef splits "image@snapshot"; snapshot is "" for an image.
func SplitRef(ref string) (image, snapshot string, err error) {
	image, snapshot, cut := strings.Cut(ref, "@")
	if err := ValidateName(KindImage, image); err != nil {
		return "", "", err
	}
	if cut {
		if err := ValidateName(KindSnapshot, snapshot); err != nil {
			return "", "", err
		}
	}
	return image, snapshot, nil
}

func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
