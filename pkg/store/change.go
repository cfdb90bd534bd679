package store

import (
	"fmt"
	"strings"
)

// MaxNote is the longest value of a note, in bytes.
const MaxNote = 4096

// maxFormat is the longest name of a file system, in bytes.
const maxFormat = 64

// ValidateChange accepts what Modifier.Modify may be asked for, whatever the image.
func ValidateChange(c Change) error {
	if c.Policy != nil {
		if err := ValidatePolicy(*c.Policy); err != nil {
			return err
		}
	}
	if c.Limits != nil {
		if err := ValidateLimits(*c.Limits); err != nil {
			return err
		}
	}
	if c.Format != nil {
		return ValidateFormat(*c.Format)
	}
	return nil
}

// ValidateLimits accepts fields that are not negative.
func ValidateLimits(l Limits) error {
	if l.IOPS < 0 || l.Bandwidth < 0 {
		return fmt.Errorf("limits of %d requests and %d bytes per second: none may be negative: %w", l.IOPS, l.Bandwidth, ErrInvalid)
	}
	return nil
}

// ValidateFormat accepts the constants and names of up to 64 lower-case letters,
// digits, '.', '_' and '-'.
func ValidateFormat(f Format) error {
	strange := func(r rune) bool { return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789._-", r) }
	if len(f) > maxFormat || strings.ContainsFunc(string(f), strange) {
		return fmt.Errorf("format %q is no name of a file system: %w", clip(string(f)), ErrInvalid)
	}
	return nil
}

// Advance refuses a step backwards with ErrConflict. Staying is no step.
func (f Format) Advance(to Format) error {
	if f != to && to.rank() <= f.rank() {
		return fmt.Errorf("the format is %q already and cannot become %q: %w", f, to, ErrConflict)
	}
	return nil
}

func (f Format) rank() int {
	switch f {
	case FormatNone:
		return 0
	case FormatBegun:
		return 1
	case FormatUnknown:
		return 3
	}
	return 2
}

// ValidateNoteKey accepts 1 to MaxName bytes.
func ValidateNoteKey(key string) error {
	if key == "" || len(key) > MaxName {
		return fmt.Errorf("key of a note has %d bytes, want 1 to %d: %w", len(key), MaxName, ErrInvalid)
	}
	return nil
}

// ValidateNote accepts a key as ValidateNoteKey does and values of up to MaxNote bytes.
func ValidateNote(key string, values ...string) error {
	if err := ValidateNoteKey(key); err != nil {
		return err
	}
	for _, v := range values {
		if len(v) > MaxNote {
			return fmt.Errorf("note %q: value of %d bytes, at most %d are allowed: %w", clip(key), len(v), MaxNote, ErrInvalid)
		}
	}
	return nil
}
