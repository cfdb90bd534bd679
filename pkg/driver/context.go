package driver

import (
	"fmt"
	"strconv"

	"github.com/strata-csi/strata/pkg/store"
)

// Keys of a volume's context: what the controller says of a volume for ever.
const (
	// contextSource is "snapshot" or "volume" for a volume made of one, so that its node
	// never formats it.
	contextSource = "contentSource"
)

// Keys of a publish context: what the controller passes on of a publication.
const (
	contextPool   = "pool"
	contextStore  = "store"
	contextImage  = "image"
	contextEpoch  = "epoch"
	contextToken  = "token" // secret
	contextAccess = "access"
)

// ticket is a publication on its way from the controller to a node.
type ticket struct {
	Pool   string
	Store  string
	Image  store.ID // what is attached: the publication's target
	Epoch  uint64
	Token  string
	Access store.Access
}

// context writes the ticket as a publish context.
func (t ticket) context() map[string]string {
	return map[string]string{
		contextPool: t.Pool, contextStore: t.Store, contextImage: string(t.Image),
		contextEpoch: strconv.FormatUint(t.Epoch, 10), contextToken: t.Token, contextAccess: string(t.Access),
	}
}

// readTicket is the reverse of context. store.ErrInvalid if something is missing or
// malformed; the error does not repeat the token.
func readTicket(c map[string]string) (ticket, error) {
	for _, key := range []string{contextPool, contextStore, contextImage, contextEpoch, contextToken, contextAccess} {
		if c[key] == "" {
			return ticket{}, missing("publish_context[" + key + "]")
		}
	}
	epoch, err := strconv.ParseUint(c[contextEpoch], 10, 64)
	t := ticket{
		Pool: c[contextPool], Store: c[contextStore], Image: store.ID(c[contextImage]),
		Epoch: epoch, Token: c[contextToken], Access: store.Access(c[contextAccess]),
	}
	switch {
	case err != nil:
		return ticket{}, fmt.Errorf("publish_context[%s] is no number: %w", contextEpoch, store.ErrInvalid)
	case !store.IsID(c[contextImage]) || !store.IsID(c[contextStore]):
		return ticket{}, invalid("publish_context names no image or no store by its id")
	case !t.Access.Valid():
		return ticket{}, invalid("publish_context[%s] is %q", contextAccess, c[contextAccess])
	}
	return t, nil
}
