package storeapi

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
)

// adopter is a store that adopts.
type adopter struct {
	store.Full
	asked store.Adoption
}

func (a *adopter) Adopt(ctx context.Context, want store.Adoption) (store.Info, error) {
	if a.asked = want; want.Source == "busy" {
		return store.Info{}, store.ErrInUse
	}
	return a.Create(ctx, store.Spec{Name: want.Name, Size: store.Block})
}

// TestAdopt: the request arrives whole, and stores that cannot say so.
func TestAdopt(t *testing.T) {
	a := &adopter{Full: memstore.New()}
	c, _ := serve(t, a)
	want := store.Adoption{Source: "pool/img", Name: "mine", BlockSize: 512, Policy: store.Policy{Soft: 2, Hard: 3}}
	info, err := c.Adopt(t.Context(), want)
	if err != nil || info.Name != "mine" || a.asked != want {
		t.Errorf("%+v was asked for, the answer is %+v, %v", a.asked, info, err)
	}
	if _, err := c.Adopt(t.Context(), store.Adoption{Source: "busy"}); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a refusal arrives as %v", err)
	}
	plain, _ := serve(t, memstore.New())
	if _, err := plain.Adopt(t.Context(), want); !errors.Is(err, store.ErrUnsupported) || !strings.Contains(err.Error(), "pool/img") {
		t.Errorf("a store that cannot answers %v", err)
	}
}
