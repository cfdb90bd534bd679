package main

import (
	"context"
	_ "embed"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

const (
	generations = 24
	// softDepth is the store's default limit, at which flatten starts by itself.
	softDepth = 8
	// tail is the end of the image, outside its file system, in which the live client writes.
	tail = 32 * mib
	// liveFrom is the generation that the live client's image is cloned from.
	liveFrom = softDepth
)

var (
	//go:embed apply.py
	applyPy []byte
	//go:embed live.py
	livePy []byte
)

// story is the state of the demo.
type story struct {
	ctx   context.Context
	dir   string
	seed  uint64
	rng   *rand.Rand
	noise *rand.ChaCha8

	store  *storeProcess
	source tree
	fsSize int64
	ref    *reference
	live   *liveClient
	frozen string // what the live image had below its tail when it was cloned

	began time.Time
	rows  []row
}

// row is a line of the closing table.
type row struct {
	what string
	took time.Duration
	note string
}

func newStory(ctx context.Context, binary, dir string, seed uint64) *story {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	s := &story{
		ctx: ctx, dir: dir, seed: seed, began: time.Now(),
		rng: rand.New(rand.NewPCG(seed, 0)), noise: rand.NewChaCha8(key),
	}
	s.store = &storeProcess{binary: binary, dir: filepath.Join(dir, "data")}
	return s
}

// end leaves nothing behind but the scratch directory.
func (s *story) end() error {
	if s.live != nil {
		s.live.abandon()
		s.live = nil
	}
	if s.store.log == nil {
		return nil
	}
	return s.store.close()
}

// tell runs the chapters in order.
func (s *story) tell() error {
	for _, c := range []struct {
		title   string
		chapter func() (string, error)
	}{
		{"an ext4 file system of the Go source", s.makeFileSystem},
		{"a store", s.startStore},
		{"import and snapshot", s.importImage},
		{"24 generations of clone-of-clone, each changed", s.grow},
		{"the family tree", s.drawTree},
		{"parents, snapshots and children deleted", s.deleteFirst},
		{"SIGKILL during a flatten, start again", s.killAndRestart},
		{"more deleted, then what the live client saw", s.deleteMore},
		{"the family tree now", s.drawTree},
		{"every survivor compared byte for byte", s.verify},
		{"strata check, reading all data", s.check},
	} {
		fmt.Printf("\n==> %s\n", c.title)
		begin := time.Now()
		note, err := c.chapter()
		if err != nil {
			return fmt.Errorf("%s: %w", c.title, err)
		}
		s.rows = append(s.rows, row{c.title, time.Since(begin), note})
		fmt.Printf("    %s (%.1fs)\n", note, time.Since(begin).Seconds())
	}
	return nil
}

func (s *story) table() {
	fmt.Printf("\n%-48s %8s  %s\n", "what", "seconds", "result")
	for _, r := range s.rows {
		fmt.Printf("%-48s %8.1f  %s\n", r.what, r.took.Seconds(), r.note)
	}
	fmt.Printf("%-48s %8.1f\n", "all", time.Since(s.began).Seconds())
}

func (s *story) makeFileSystem() (string, error) {
	for name, text := range map[string][]byte{"apply.py": applyPy, "live.py": livePy} {
		if err := os.WriteFile(filepath.Join(s.dir, name), text, 0o600); err != nil {
			return "", err
		}
	}
	var err error
	if s.source, err = goSource(s.ctx); err != nil {
		return "", err
	}
	base := filepath.Join(s.dir, "base.img")
	if s.fsSize, err = s.source.format(s.ctx, base, tail, s.noise); err != nil {
		return "", err
	}
	if err := discardFree(s.ctx, base); err != nil {
		return "", err
	}
	if s.ref, err = newReference(s.ctx, s.dir, base); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d files, %d MiB in an image of %d MiB", len(s.source.files), s.source.bytes/mib, (s.fsSize+tail)/mib), nil
}

func (s *story) startStore() (string, error) {
	log, err := os.Create(filepath.Join(s.dir, "store.log"))
	if err != nil {
		return "", err
	}
	s.store.log = log
	return "listening on a unix socket", s.store.start(s.ctx, "--init")
}

func (s *story) importImage() (string, error) {
	if err := s.all([]string{"import", s.ref.base, "go-src"}, []string{"snap", "create", "go-src@v0"}); err != nil {
		return "", err
	}
	var i store.Info
	if err := s.store.query(s.ctx, &i, "info", "go-src"); err != nil {
		return "", err
	}
	return fmt.Sprintf("go-src@v0, %d MiB in size", i.Size/mib), nil
}

// all runs verbs one after the other.
func (s *story) all(verbs ...[]string) error {
	for _, v := range verbs {
		if _, err := s.store.strata(s.ctx, v...); err != nil {
			return err
		}
	}
	return nil
}

func image(generation int) string {
	if generation == 0 {
		return "go-src"
	}
	return fmt.Sprintf("gen-%02d", generation)
}

// snapshot is the snapshot which is taken of a generation.
func snapshot(generation int) string {
	if generation == 0 {
		return "go-src@v0"
	}
	return image(generation) + "@s"
}

// grow makes the generations, and watches the store keep their depth at the limit.
func (s *story) grow() (string, error) {
	var total change
	flattens := 0
	for g := 1; g <= generations; g++ {
		c, err := s.generation(g)
		if err != nil {
			return "", err
		}
		total.data, total.zero = total.data+c.data, total.zero+c.zero
		if g == liveFrom {
			if err := s.startLiveClient(); err != nil {
				return "", err
			}
		}
		if c.depth > softDepth {
			if err := s.watchFlatten(g); err != nil {
				return "", err
			}
		}
		if c.depth > softDepth || c.flattened {
			flattens++
		}
	}
	if flattens == 0 {
		return "", fmt.Errorf("%d generations without a flatten, limit %d", generations, softDepth)
	}
	return fmt.Sprintf("%d MiB written, %d MiB trimmed, %d automatic flattens", total.data/mib, total.zero/mib, flattens), nil
}

// change is what happened to a generation.
type change struct {
	data, zero int64 // bytes written and trimmed
	depth      int   // clone links, after its snapshot was taken
	flattened  bool  // the depth had been brought down by then
}

// generation makes one: odd ones are cloned from a snapshot, even ones from the image before
// them. libnbd then does to the clone what debugfs and e2fsck did to the reference.
func (s *story) generation(g int) (c change, err error) {
	parent := image(g - 1)
	if g%2 == 1 {
		parent = snapshot(g - 1)
	}
	begin := time.Now()
	var born store.Info
	if err := s.store.query(s.ctx, &born, "clone", parent, image(g)); err != nil {
		return c, err
	}
	cloned := time.Since(begin)
	if err := s.source.change(s.ctx, s.ref.work, g, s.dir, s.rng, s.noise); err != nil {
		return c, err
	}
	if c.data, c.zero, err = s.ref.commit(g); err != nil {
		return c, err
	}
	if _, err := command(s.ctx, python, filepath.Join(s.dir, "apply.py"), s.store.uri(image(g)), s.ref.delta(g)); err != nil {
		return c, err
	}
	if err := s.all([]string{"snap", "create", snapshot(g)}); err != nil {
		return c, err
	}
	if c.depth, err = s.store.depth(s.ctx, image(g)); err != nil {
		return c, err
	}
	c.flattened = c.depth < born.Depth
	note := ""
	if c.flattened {
		note = ", flattened in the meantime"
	}
	fmt.Printf("    %s: clone of %-9s in %3d ms at depth %d, %3.1f MiB written, %3.1f MiB trimmed%s\n",
		image(g), parent, cloned.Milliseconds(), born.Depth, float64(c.data)/float64(mib), float64(c.zero)/float64(mib), note)
	return c, nil
}

// startLiveClient clones an image for the client that reads and writes from now on.
func (s *story) startLiveClient() error {
	s.frozen = filepath.Join(s.dir, "frozen.img")
	if err := copyFile(s.ctx, s.ref.work, s.frozen); err != nil {
		return err
	}
	if err := s.all([]string{"clone", image(liveFrom) + "@s", "live"}); err != nil {
		return err
	}
	var err error
	s.live, err = startLive(s.ctx, s.dir, s.store.uri("live"), s.seed, s.fsSize, tail, s.frozen)
	fmt.Printf("    live: a client reads and writes from here on\n")
	return err
}

// watchFlatten waits until the flatten that the store has begun by itself has brought the
// newest generation below the limit.
func (s *story) watchFlatten(g int) error {
	begin := time.Now()
	var before, after store.Status
	if err := s.store.query(s.ctx, &before, "status"); err != nil {
		return err
	}
	said, depth := int64(-1), 0
	err := until(s.ctx, "flatten keeps the depth at the limit", func() (bool, error) {
		if err := s.store.query(s.ctx, &after, "status"); err != nil {
			return false, err
		}
		for _, j := range after.Jobs {
			if j.Kind != store.JobFlatten || j.Total == 0 {
				continue
			}
			if percent := j.Done * 100 / j.Total; percent/25 > said {
				said = percent / 25
				fmt.Printf("            depth is above %d: flatten at %d %%\n", softDepth, percent)
			}
		}
		var err error
		depth, err = s.store.depth(s.ctx, image(g))
		return depth <= softDepth, err
	})
	if err != nil {
		return err
	}
	fmt.Printf("            depth is %d again after %.1fs; %d MiB copied under live I/O\n",
		depth, time.Since(begin).Seconds(), (after.Copied-before.Copied)/mib)
	return nil
}

func (s *story) drawTree() (string, error) {
	out, err := s.store.strata(s.ctx, "tree")
	if err != nil {
		return "", err
	}
	fmt.Print(indent(out))
	return fmt.Sprintf("%d lines", strings.Count(out, "\n")), nil
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n    ") + "\n"
}
