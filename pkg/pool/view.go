package pool

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
)

// Remote is a connection to one store. It is found, and found again, behind one
// address; it does not know whether the store behind it is still the same.
type Remote interface {
	store.Full
	// Endpoints are the NBD URIs at which the store serves, without an export's name.
	Endpoints(ctx context.Context) ([]string, error)
}

// Member is a store of a pool that answers.
type Member struct {
	// UUID is the store's own.
	UUID string
	// Addr is where it answered.
	Addr string
	// Local: it was reached by a unix socket, so it is on this host.
	Local bool
	// Joined: every other known member remembers it.
	Joined bool
	// Status as of the discovery; Free is what placement goes by.
	Status store.Status
	// Remote is the connection to it.
	Remote Remote
}

func (m Member) String() string { return fmt.Sprintf("store %s at %s", m.UUID, m.Addr) }

// Confirm asks the store behind the connection for its UUID once more, because what
// answers at an address can change: ErrUnavailable if it is another store now.
func (m Member) Confirm(ctx context.Context) error {
	st, err := m.Remote.Status(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", m, err)
	case st.UUID != m.UUID:
		return fmt.Errorf("%s: store %s answers there now: %w", m, st.UUID, store.ErrUnavailable)
	}
	return nil
}

// Missing is a known member, or a configured address, that does not answer.
type Missing struct {
	// UUID is "" for an address at which no store was ever seen.
	UUID string
	Addr string
	Err  error
}

func (m Missing) String() string {
	if m.UUID == "" {
		return fmt.Sprintf("%s: %v", m.Addr, m.Err)
	}
	return fmt.Sprintf("store %s (last seen at %s): %v", m.UUID, cmp.Or(m.Addr, "an unknown address"), m.Err)
}

// Refused is a store that answers and is not taken for a member.
type Refused struct {
	UUID   string
	Addr   string
	Reason string
}

// View is a pool as it was found by one discovery. Slices are sorted and not shared.
type View struct {
	Pool    string
	Members []Member
	Missing []Missing
	Refused []Refused
	// Forgotten are the UUIDs of members that were given up.
	Forgotten []string
}

// Member finds a member that answers by its UUID.
func (v View) Member(uuid string) (Member, bool) {
	for _, m := range v.Members {
		if m.UUID == uuid {
			return m, true
		}
	}
	return Member{}, false
}

// Known lists the UUIDs of all known members, whether they answer or not.
func (v View) Known() []string {
	var ids []string
	for _, m := range v.Members {
		ids = append(ids, m.UUID)
	}
	for _, m := range v.Missing {
		if m.UUID != "" {
			ids = append(ids, m.UUID)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// Err is nil if every member answered, else ErrUnavailable naming those that did not.
func (v View) Err() error {
	if len(v.Missing) == 0 && len(v.Members) > 0 {
		return nil
	}
	var names []string
	for _, m := range v.Missing {
		names = append(names, m.String())
	}
	for _, r := range v.Refused {
		names = append(names, fmt.Sprintf("store %s at %s was refused: %s", r.UUID, r.Addr, r.Reason))
	}
	if len(names) == 0 {
		names = []string{"no store answers"}
	}
	return fmt.Errorf("pool %s: %s: %w", v.Pool, strings.Join(names, "; "), store.ErrUnavailable)
}

// Find returns a member by its UUID, or why it is not there: ErrUnavailable, and ErrFenced
// as well if it was given up, since then nothing on it is anybody's any more.
func (v View) Find(uuid string) (Member, error) {
	if m, ok := v.Member(uuid); ok {
		return m, nil
	}
	if slices.Contains(v.Forgotten, uuid) {
		return Member{}, fmt.Errorf("pool %s: store %s was given up, and what was on it: %w: %w", v.Pool, uuid, store.ErrFenced, store.ErrUnavailable)
	}
	for _, m := range v.Missing {
		if m.UUID == uuid {
			return Member{}, fmt.Errorf("pool %s: %s: %w", v.Pool, m, store.ErrUnavailable)
		}
	}
	for _, r := range v.Refused {
		if r.UUID == uuid {
			return Member{}, fmt.Errorf("pool %s: store %s at %s was refused: %s: %w", v.Pool, uuid, r.Addr, r.Reason, store.ErrUnavailable)
		}
	}
	return Member{}, fmt.Errorf("pool %s has never seen store %s: %w", v.Pool, uuid, store.ErrUnavailable)
}
