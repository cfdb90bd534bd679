package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

// An import that is killed leaves an image behind that has its name and a part of its
// data. So that nobody takes it for whole, a note says which images are being imported:
// its key, drawn before the image is made, is the image's digest, so that no moment lies
// between the image and its mark. It goes when the image is whole, or removed.

// importNotes begin the keys of such notes; the values are names of images.
const importNotes = "import/"

// beginImport notes that an image is about to be imported. The key is its digest.
func beginImport(ctx context.Context, s *storeapi.Client, name string) (key string, err error) {
	var b [16]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	key = importNotes + hex.EncodeToString(b[:])
	return key, s.SwapNote(ctx, key, "", name)
}

// endImport says that an image is whole, or gone.
func endImport(ctx context.Context, s *storeapi.Client, key, name string) error {
	return s.SwapNote(ctx, key, name, "")
}

// imported tells whether an image was made by an import, under way or not.
func imported(i store.Info) bool {
	return i.Kind == store.KindImage && strings.HasPrefix(i.Digest, importNotes)
}

// unfinished lists the digests of images whose import has not ended. found are those of
// interest; the store is asked only if one of them was imported.
func (c *cli) unfinished(ctx context.Context, found ...store.Info) (map[string]bool, error) {
	open := map[string]bool{}
	for _, i := range found {
		if !imported(i) {
			continue
		}
		s, err := c.dial()
		if err != nil {
			return nil, err
		}
		return open, s.Notes(ctx, importNotes, func(key, _ string) error {
			open[key] = true
			return nil
		})
	}
	return open, nil
}

// importingState is shown of an image whose import has not ended.
const importingState = "importing"

// noteImporting says what to do about it.
func (c *cli) noteImporting(name string) {
	c.note("the import of %s has not ended; if it was killed, remove what is there with: strata rm %s", name, name)
}
