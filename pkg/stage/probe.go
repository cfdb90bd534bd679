package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	utilexec "k8s.io/utils/exec"

	"github.com/strata-csi/strata/pkg/store"
)

// content is what a probe has found on a device.
type content struct {
	// fs is the type of a file system, "" if none was recognised.
	fs string
	// other names what is no file system: a partition table, a member of an array.
	other string
	// blank: the first and the last MiB hold zeros only.
	blank bool
}

func (c content) nothing() bool { return c.fs == "" && c.other == "" }

// edge is how much is read at either end of a device, in bytes. Whatever is formatted
// has its marks there.
const edge = 1 << 20

// errProbe: the device could not be examined. It is never formatted then.
var errProbe = errors.New("the device cannot be examined")

// probe examines a device that must have size bytes. blkid answers "nothing found" on
// devices that it cannot read, so the device is read here as well, past the page cache,
// before blkid and, where that finds nothing, after it.
func (s *Service) probe(ctx context.Context, device string, size int64) (content, error) {
	blank, err := s.readEdges(ctx, device, size)
	if err != nil {
		return content{}, fmt.Errorf("%w: %w", errProbe, err)
	}
	c, err := s.blkid(ctx, device)
	if err != nil {
		return content{}, fmt.Errorf("%w: %w", errProbe, err)
	}
	c.blank = blank
	if !c.nothing() {
		return c, nil
	}
	again, err := s.readEdges(ctx, device, size)
	if err != nil {
		return content{}, fmt.Errorf("%w: %w", errProbe, err)
	}
	c.blank = blank && again
	return c, nil
}

// readEdges checks the size and reads both ends of a device. It tells whether they hold
// zeros only. Opening and reading is left to a process of its own: where it hangs because
// the store is away, this one must be free to bring the store's link back, or to be started
// anew.
func (s *Service) readEdges(ctx context.Context, device string, size int64) (blank bool, err error) {
	n := min(edge, size)
	first, err := s.read(ctx, device, 0, n)
	if err != nil {
		return false, err
	}
	// A little more is asked for than there should be, to see that there is no more.
	last, err := s.read(ctx, device, size-n, n+store.Block)
	if err != nil {
		return false, err
	}
	if int64(len(first)) != n || int64(len(last)) != n {
		return false, fmt.Errorf("%s has not the size of the image, %d bytes: at its ends, %d and %d bytes could be read of %d",
			device, size, len(first), len(last), n)
	}
	return allZero(first) && allZero(last), nil
}

// read reads up to n bytes of a device past the page cache.
func (s *Service) read(ctx context.Context, device string, off, n int64) ([]byte, error) {
	cmd := s.cfg.Exec.CommandContext(ctx, "dd", "if="+device, "bs="+strconv.Itoa(edge), "status=none",
		"iflag=direct,fullblock,skip_bytes,count_bytes", "skip="+strconv.FormatInt(off, 10), "count="+strconv.FormatInt(n, 10))
	var said bytes.Buffer
	cmd.SetStderr(&said)
	data, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("read %s with dd: %w: %s", device, err, brief(said.Bytes()))
	}
	return data, nil
}

func allZero(data []byte) bool { return len(bytes.Trim(data, "\x00")) == 0 }

// blkidNothing is blkid's exit code for "nothing found", blkidMany that for
// contradictory marks.
const (
	blkidNothing = 2
	blkidMany    = 8
)

// blkid recognises what is on a device.
func (s *Service) blkid(ctx context.Context, device string) (content, error) {
	out, err := s.cfg.Exec.CommandContext(ctx, "blkid", "-p",
		"-s", "TYPE", "-s", "PTTYPE", "-s", "USAGE", "-o", "export", device).Output()
	var exit utilexec.ExitError
	if errors.As(err, &exit) {
		switch exit.ExitStatus() {
		case blkidNothing:
			return content{}, nil
		case blkidMany:
			return content{}, fmt.Errorf("blkid finds marks of several kinds on %s; remove the wrong ones with wipefs: %w", device, ErrState)
		}
	}
	if err != nil {
		return content{}, fmt.Errorf("blkid %s: %w", device, err)
	}
	found := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			found[key] = value
		}
	}
	switch {
	case found["TYPE"] != "" && (found["USAGE"] == "filesystem" || found["USAGE"] == ""):
		return content{fs: found["TYPE"]}, nil
	case found["TYPE"] != "":
		return content{other: found["TYPE"]}, nil
	case found["PTTYPE"] != "":
		return content{other: "a partition table (" + found["PTTYPE"] + ")"}, nil
	}
	return content{}, fmt.Errorf("blkid says neither what is on %s nor that nothing is", device)
}
