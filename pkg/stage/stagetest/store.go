package stagetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/store"
)

// Pool and StoreID are what the one store is called.
const (
	Pool    = "default"
	StoreID = "5be4a7d8-5f0c-4b1c-9f62-0d6f0d4a0001"
)

// Store is a store with images, whose content is in files. It is a stage.Finder and a
// stage.API. Safe for concurrent use.
type Store struct {
	dir string
	// Fail is asked before each call, by the method's name.
	Fail Faults
	// Local makes it tell tokens, as a store on the node's own host does.
	Local bool

	mu     sync.Mutex
	uuid   string
	down   bool
	images map[store.ID]*image
	notes  map[string]string
	epoch  uint64
	dials  int
}

type image struct {
	info     store.Info
	pubs     []store.Publication
	newest   map[uint64]uint64 // generation by epoch
	sessions []session
}

type session struct {
	epoch, generation uint64
	end               *os.File
}

var (
	_ stage.Finder = (*Store)(nil)
	_ stage.API    = (*Store)(nil)
)

func newStore(dir string) *Store {
	return &Store{dir: dir, uuid: StoreID, images: make(map[store.ID]*image), notes: make(map[string]string)}
}

// Add makes an image of size bytes; change may alter its description.
func (s *Store) Add(id store.ID, size int64, change func(*store.Info)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	info := store.Info{ID: id, Image: id, Kind: store.KindImage, Name: "image-" + string(id), Size: size, BlockSize: 4096, State: store.StateReady}
	if change != nil {
		change(&info)
	}
	s.images[id] = &image{info: info, newest: make(map[uint64]uint64)}
	f, err := os.OpenFile(s.File(id), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Truncate(size)
}

// File is where an image's content is.
func (s *Store) File(id store.ID) string { return filepath.Join(s.dir, string(id)) }

// Grow resizes an image.
func (s *Store) Grow(id store.ID, size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images[id].info.Size = size
	return os.Truncate(s.File(id), size)
}

// Info describes an image.
func (s *Store) Info(id store.ID) store.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.images[id].info
}

// Kill ends the store's process: connections hang up, nothing answers.
func (s *Store) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = true
	for _, i := range s.images {
		for _, c := range i.sessions {
			_ = c.end.Close()
		}
		i.sessions = nil
	}
}

// Start lets it answer again.
func (s *Store) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = false
}

// Become makes another store, or this one again, answer at the address. Another one
// knows none of the images.
func (s *Store) Become(uuid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uuid = uuid
}

// Sessions counts the connections to an image.
func (s *Store) Sessions(id store.ID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.images[id].sessions)
}

// Generations are those of the connections to all images, in order.
func (s *Store) Generations() (all []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.images {
		for _, c := range i.sessions {
			all = append(all, c.generation)
		}
	}
	slices.Sort(all)
	return all
}

// Dials counts the attempts to connect that have reached the store so far.
func (s *Store) Dials() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials
}

// enter begins a call. The caller unlocks mu if there is no error.
func (s *Store) enter(op string) error {
	if err := s.Fail.hit(op); err != nil {
		return err
	}
	s.mu.Lock()
	if s.down {
		s.mu.Unlock()
		return fmt.Errorf("%s: the store is down: %w", op, store.ErrUnavailable)
	}
	return nil
}

// find is for who holds mu.
func (s *Store) find(id store.ID) (*image, error) {
	i := s.images[id]
	if i == nil || s.uuid != StoreID {
		return nil, fmt.Errorf("image %s: %w", id, store.ErrNotFound)
	}
	return i, nil
}

// Find implements stage.Finder.
func (s *Store) Find(_ context.Context, pool, _ string) (stage.Connection, error) {
	if err := s.enter("Find"); err != nil {
		return stage.Connection{}, err
	}
	defer s.mu.Unlock()
	if pool != Pool {
		return stage.Connection{}, fmt.Errorf("pool %s: %w", pool, store.ErrNotFound)
	}
	return stage.Connection{API: s, Targets: []nbd.Target{{Network: "unix", Address: "/stagetest"}}}, nil
}

// Lookup implements stage.Finder.
func (s *Store) Lookup(_ context.Context, _, ref string) (string, store.Info, error) {
	if err := s.enter("Lookup"); err != nil {
		return "", store.Info{}, err
	}
	defer s.mu.Unlock()
	for _, i := range s.images {
		if i.info.Ref() == ref {
			return StoreID, i.info, nil
		}
	}
	return "", store.Info{}, fmt.Errorf("%s: %w", ref, store.ErrNotFound)
}

// Each implements stage.Finder.
func (s *Store) Each(_ context.Context, fn func(uuid string, api stage.API) error) error {
	if err := s.enter("Each"); err != nil {
		return err
	}
	s.mu.Unlock()
	return fn(StoreID, s)
}

// Dial is a stage.Dial.
func (s *Store) Dial(_ context.Context, _ nbd.Target, export string) (*os.File, nbd.Negotiated, error) {
	if err := s.enter("Dial"); err != nil {
		return nil, nbd.Negotiated{}, err
	}
	defer s.mu.Unlock()
	s.dials++
	f := strings.Split(export, "/") // pub/<id>/<epoch>/<token>/<generation>
	epoch, _ := strconv.ParseUint(f[2], 10, 64)
	generation, _ := strconv.ParseUint(f[4], 10, 64)
	i, err := s.find(store.ID(f[1]))
	if err != nil {
		return nil, nbd.Negotiated{}, nbd.Refuse(nbd.Policy, "no such publication")
	}
	at := slices.IndexFunc(i.pubs, func(p store.Publication) bool { return p.Epoch == epoch && p.Token == f[3] })
	if at < 0 {
		return nil, nbd.Negotiated{}, nbd.Refuse(nbd.Policy, "the publication with epoch %d was withdrawn", epoch)
	}
	if generation < i.newest[epoch] {
		return nil, nbd.Negotiated{}, nbd.Refuse(nbd.Policy, "generation %d is older than %d", generation, i.newest[epoch])
	}
	i.newest[epoch] = generation
	i.cut(func(c session) bool { return c.epoch == epoch && c.generation < generation })
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nbd.Negotiated{}, err
	}
	i.sessions = append(i.sessions, session{epoch, generation, os.NewFile(uintptr(ends[0]), "store")})
	n := nbd.Negotiated{Size: i.info.Size}
	if i.pubs[at].Access == store.AccessRead {
		n.Flags = 2 // READ_ONLY
	}
	return os.NewFile(uintptr(ends[1]), "node"), n, nil
}

// cut ends sessions.
func (i *image) cut(which func(session) bool) {
	i.sessions = slices.DeleteFunc(i.sessions, func(c session) bool {
		if !which(c) {
			return false
		}
		_ = c.end.Close()
		return true
	})
}
