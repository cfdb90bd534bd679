package stage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/mount-utils"
	utilexec "k8s.io/utils/exec"

	"github.com/strata-csi/strata/pkg/attach"
	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/store"
)

// Config of a Service. Fields without a default must be set.
type Config struct {
	// Dir holds the records; it is made with mode 0700 and locked.
	Dir string
	// Node is the name under which this host gets publications.
	Node   string
	Finder Finder
	Kernel Kernel
	Dial   Dial
	// Mounter and Exec are the system's if nil.
	Mounter mount.Interface
	Exec    utilexec.Interface
	// ProgramGroup is the directory of a control group (v2) in which the system's Exec
	// starts programs, made if it is not there; "" leaves them in that of the process. It
	// must not be below that of the process' container, and be nobody else's. Where it
	// cannot be had, an event tells so.
	ProgramGroup string
	// Notify hears of what happens unasked; nil is allowed. It must not block.
	Notify func(Event)
	// CallTimeout bounds one call to a store, or one dialling of it; 0 means 20 s.
	CallTimeout time.Duration
	// Tick is how often the watcher looks at links; 0 means 1 s.
	Tick time.Duration
	// KeyLimit is after how many bytes, read and written together, a TCP connection is
	// replaced because of its key's age; 0 means never. Half of nbd.KeyBudget leaves
	// room for what requests cost beside their data.
	KeyLimit int64
	// Parallel bounds the attempts to reconnect to one store at a time; 0 means 16.
	Parallel int
}

func (c *Config) fill() error {
	if c.Dir == "" || c.Node == "" || c.Finder == nil || c.Kernel == nil || c.Dial == nil {
		return fmt.Errorf("open stage: directory, node name, finder, kernel and dialler are needed: %w", store.ErrInvalid)
	}
	if c.Notify == nil {
		c.Notify = func(Event) {}
	}
	for d, normal := range map[*time.Duration]time.Duration{
		&c.CallTimeout: 20 * time.Second, &c.Tick: time.Second,
	} {
		if *d <= 0 {
			*d = normal
		}
	}
	if c.Parallel <= 0 {
		c.Parallel = 16
	}
	return nil
}

// equip fills in what programs are started with.
func (c *Config) equip(ctx context.Context) {
	if c.Exec == nil {
		p, why := newPrograms(ctx, c.ProgramGroup)
		if why != nil {
			c.Notify(Event{Kind: Ungrouped, Err: why})
		}
		c.Exec = p
	}
	if c.Mounter == nil {
		c.Mounter = NewMounter(c.Exec)
	}
}

// Service is the node. Its methods may be called concurrently.
type Service struct {
	cfg    Config
	book   *book
	quit   context.Context // ends at Close
	stop   context.CancelFunc
	work   sync.WaitGroup // operations and the watcher
	resize *mount.ResizeFs
	point  points
	hangs  *hangups
	// orphans are the devices without a record that Open has found.
	orphans []attach.Device

	mu      sync.Mutex
	closed  bool
	volumes map[string]*volume
	gates   map[string]chan struct{} // by store: attempts to reconnect
}

// volume is what the process knows of one volume.
type volume struct {
	id    string
	op    chan struct{} // holds a token during an operation
	link  chan struct{} // holds a token while the link is made, replaced or ended
	step  atomic.Pointer[string]
	users int // calls that hold a pointer to it; under Service.mu
	conn  connState

	mu  sync.Mutex             // held to write the record
	rec atomic.Pointer[record] // nil: nothing on this node. Never changed in place
}

// Open takes up the records below cfg.Dir and what the kernel has, and starts to watch
// the links. What was left half done stays so until it is asked for again; devices
// whose record is lost are ended if nobody uses them.
func Open(ctx context.Context, cfg Config) (*Service, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	b, err := openBook(cfg.Dir)
	if err != nil {
		return nil, err
	}
	cfg.equip(ctx) // not before the directory is this process' own
	s := &Service{
		cfg: cfg, book: b, resize: mount.NewResizeFs(cfg.Exec),
		volumes: make(map[string]*volume), gates: make(map[string]chan struct{}),
	}
	s.quit, s.stop = context.WithCancel(context.Background())
	if s.hangs, err = newHangups(); err != nil {
		_ = b.close()
		return nil, err
	}
	if err := s.takeUp(ctx); err != nil {
		s.stop()
		s.hangs.close()
		_ = b.close()
		return nil, err
	}
	s.work.Go(s.watch)
	s.work.Go(s.listen)
	s.work.Go(s.hear)
	s.work.Go(s.register)
	for _, d := range s.orphans {
		s.work.Go(func() { s.orphan(d) })
	}
	return s, nil
}

// Close ends the watching and waits for operations; it detaches nothing, and I/O goes
// on. Operations that hang in the kernel are waited for until ctx ends.
func (s *Service) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	done := make(chan struct{})
	go func() {
		s.work.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("close stage: %s: %w", s.underWay(), ctx.Err())
	}
	for _, v := range s.all() {
		s.down(v)
	}
	s.hangs.close()
	return s.book.close()
}

// underWay names the operations that have not ended.
func (s *Service) underWay() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, v := range s.volumes {
		if len(v.op) > 0 {
			list = append(list, v.id+" is "+v.doing())
		}
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// hold finds or makes a volume; release must follow.
func (s *Service) hold(id string) *volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.volumes[id]
	if v == nil {
		v = &volume{id: id, op: make(chan struct{}, 1), link: make(chan struct{}, 1)}
		s.volumes[id] = v
	}
	v.users++
	return v
}

func (s *Service) release(v *volume) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.users--
	if v.users == 0 && v.record() == nil {
		delete(s.volumes, v.id)
	}
}

// all returns the volumes that have a record, in the order of ids.
func (s *Service) all() []*volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*volume
	for _, v := range s.volumes {
		if v.record() != nil {
			list = append(list, v)
		}
	}
	slices.SortFunc(list, func(a, b *volume) int { return strings.Compare(a.id, b.id) })
	return list
}

// do runs f as the volume's only operation. When ctx ends before f does, do returns
// with an error that says where f stands; f goes on, and holds the volume until it is
// done. f's own context ends only at Close.
func (s *Service) do(ctx context.Context, id, what string, f func(ctx context.Context, v *volume) error) error {
	v := s.hold(id)
	select {
	case v.op <- struct{}{}:
	default:
		s.release(v)
		return fmt.Errorf("%s volume %s: it is %s: %w", what, id, v.doing(), store.ErrBusy)
	}
	begun := time.Now()
	done := make(chan error, 1)
	leave := func() {
		<-v.op
		s.release(v)
	}
	if !s.start(func() {
		answer := func() {}
		defer func() {
			leave() // first, so that the caller may ask again at once
			answer()
		}()
		ctx, cancel := s.detached(ctx)
		defer cancel()
		v.at("being looked at")
		err := f(ctx, v)
		answer = func() { done <- err }
	}) {
		leave()
		return fmt.Errorf("%s volume %s: %w", what, id, store.ErrClosed)
	}
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%s volume %s: %w", what, id, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s volume %s: after %s it is still %s, which goes on; ask again: %w",
			what, id, time.Since(begun).Round(time.Millisecond), v.doing(), ctx.Err())
	}
}

// start runs f in a goroutine that Close waits for, unless it is too late.
func (s *Service) start(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.work.Go(f)
	return true
}

// detached is a context with ctx's values that ends at Close only.
func (s *Service) detached(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(s.quit, cancel)
	return ctx, func() { stop(); cancel() }
}

// bound is a context for one call to a store.
func (s *Service) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.cfg.CallTimeout)
}

// points are places at which a crash must do no harm.
type points struct {
	crash atomic.Pointer[func(point string)] // set by tests
}

// Hit is failpoint.Hit.
func (p *points) Hit(point string) {
	failpoint.Hit(point)
	if crash := p.crash.Load(); crash != nil {
		(*crash)(point)
	}
}

// at says what the operation does now, as in "it is …".
func (v *volume) at(step string) { v.step.Store(&step) }

func (v *volume) doing() string {
	if p := v.step.Load(); p != nil {
		return *p
	}
	return "being looked at"
}

// record is the volume's record, which must not be changed, or nil.
func (v *volume) record() *record { return v.rec.Load() }

// put makes r the volume's record, durably.
func (s *Service) put(v *volume, r *record) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := s.book.save(r); err != nil {
		return err
	}
	v.rec.Store(r)
	return nil
}

// errNoRecord: somebody removed the record meanwhile.
var errNoRecord = errors.New("the volume is not on this node any more")

// update changes the volume's record, durably.
func (s *Service) update(v *volume, change func(r *record)) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.record()
	if r == nil {
		return errNoRecord
	}
	r = r.clone()
	change(r)
	if err := s.book.save(r); err != nil {
		return err
	}
	v.rec.Store(r)
	return nil
}

// drop removes the volume's record.
func (s *Service) drop(v *volume) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := s.book.remove(v.id); err != nil {
		return err
	}
	v.rec.Store(nil)
	return nil
}

// alone fails if another volume has the image on this node: a second device of one
// publication would cut off the first.
func (s *Service) alone(v *volume, image store.ID) error {
	for _, other := range s.all() {
		r := other.record()
		if other != v && r != nil && (r.Ticket.Image == image || r.Source == image) {
			return fmt.Errorf("image %s is on this node as volume %s (%s): %w", image, other.id, r.Device, store.ErrInUse)
		}
	}
	return nil
}

// take waits for the volume's link, for as long as ctx lets it.
func (v *volume) take(ctx context.Context) (leave func(), err error) {
	select {
	case v.link <- struct{}{}:
		return func() { <-v.link }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the device's link: %w", ctx.Err())
	}
}
