package export

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
)

const (
	publishedPrefix = "pub/"
	readOnlyPrefix  = "ro/"
)

// Name is the export name with which a node attaches a publication. It holds the
// secret token and must not be logged.
func Name(p store.Publication, generation uint64) string {
	return fmt.Sprintf("%s%s/%d/%s/%d", publishedPrefix, p.Target, p.Epoch, p.Token, generation)
}

// name is an export name taken apart.
type name struct {
	// plain is a reference or an id; "" for a publication.
	plain    string
	readOnly bool

	id         store.ID
	epoch      uint64
	token      string
	generation uint64
}

// parseName never shows the text of a publication's name in an error.
func parseName(s string) (name, error) {
	rest, published := strings.CutPrefix(s, publishedPrefix)
	if !published {
		plain, readOnly := strings.CutPrefix(s, readOnlyPrefix)
		if plain == "" {
			return name{}, nbd.Refuse(nbd.Unknown, "there is no default export; name an image or a snapshot")
		}
		return name{plain: plain, readOnly: readOnly}, nil
	}
	bad := nbd.Refuse(nbd.Invalid, "the name of a publication must be pub/<id>/<epoch>/<token>/<generation>")
	f := strings.Split(rest, "/")
	if len(f) != 4 || !store.IsID(f[0]) || f[2] == "" {
		return name{}, bad
	}
	epoch, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return name{}, bad
	}
	generation, err := strconv.ParseUint(f[3], 10, 64)
	if err != nil {
		return name{}, bad
	}
	return name{id: store.ID(f[0]), epoch: epoch, token: f[2], generation: generation}, nil
}
