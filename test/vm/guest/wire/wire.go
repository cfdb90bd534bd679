// Package wire is what the host and the first process of a guest say to each other:
// a Job in a file before the boot, frames over one byte stream after it.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Names both sides agree on.
const (
	// Parameter of the kernel's command line that holds the path of the job.
	Parameter = "strata.job="
	// Port is the name of the virtio-serial port that carries the frames.
	Port = "strata"
	// Share is the tag of the 9p share that holds the host's root.
	Share = "root"
	// Scratch is a writable directory on a file system of its own in the guest.
	Scratch = "/scratch"
)

// Job is what a guest shall do.
type Job struct {
	// Args is the program and its arguments; the program is a path in the host's tree.
	Args []string `json:"args"`
	// Env is the whole environment, as KEY=value.
	Env []string `json:"env"`
	// Dir is the working directory.
	Dir string `json:"dir"`
	// Timeout bounds the command: then it is asked for its stacks (SIGQUIT), the
	// kernel for its blocked tasks, and the guest ends with TimeoutCode.
	Timeout time.Duration `json:"timeout"`
	// BootModules are loaded before the root is mounted, from the initramfs.
	BootModules []string `json:"bootModules,omitempty"`
	// ModuleDir on the host becomes /lib/modules/<kernel> in the guest.
	ModuleDir string `json:"moduleDir"`
	// Modules are loaded before the command; each may be followed by parameters.
	Modules []string `json:"modules,omitempty"`
	// RootType is hostfs or 9p.
	RootType string `json:"rootType"`
	// Channel is the serial line of the frames; empty: the virtio-serial port.
	Channel string `json:"channel,omitempty"`
	// Disk is the block device below Scratch, DiskFS what it is formatted with;
	// empty: a tmpfs.
	Disk   string `json:"disk,omitempty"`
	DiskFS string `json:"diskFS,omitempty"`
}

// TimeoutCode is the exit code of a command that had to be ended.
const TimeoutCode = 124

// Read reads the job in the file at path.
func Read(path string) (Job, error) {
	var j Job
	b, err := os.ReadFile(path)
	if err != nil {
		return j, fmt.Errorf("read job: %w", err)
	}
	if err := json.Unmarshal(b, &j); err != nil {
		return j, fmt.Errorf("read job %s: %w", path, err)
	}
	return j, nil
}

// Kind of a frame.
type Kind byte

// Kinds of frames.
const (
	Output Kind = 'o' // bytes the command wrote
	Kernel Kind = 'k' // a line of the kernel's log, without its end
	Note   Kind = 'n' // what the first process has to say
	Exit   Kind = 'x' // the exit code in decimal; the last frame
)

// MaxFrame is the most bytes that one frame carries.
const MaxFrame = 64 << 10

// Writer writes frames. Its methods may be called concurrently.
type Writer struct {
	mu sync.Mutex
	w  io.Writer
}

// NewWriter returns a Writer onto w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write sends p, in as many frames of kind k as it takes.
func (w *Writer) Write(k Kind, p []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		n := min(len(p), MaxFrame)
		frame := make([]byte, 5, 5+n)
		frame[0] = byte(k)
		binary.BigEndian.PutUint32(frame[1:], uint32(n))
		if _, err := w.w.Write(append(frame, p[:n]...)); err != nil {
			return fmt.Errorf("write frame: %w", err)
		}
		if p = p[n:]; len(p) == 0 {
			return nil
		}
	}
}

// ReadFrame reads one frame. io.EOF means that the stream ended between two frames.
func ReadFrame(r io.Reader) (Kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return 0, nil, io.EOF
		}
		return 0, nil, fmt.Errorf("read frame: %w", err)
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxFrame {
		return 0, nil, fmt.Errorf("read frame: kind %q with %d bytes is not one of ours", head[0], n)
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(r, p); err != nil {
		return 0, nil, fmt.Errorf("read frame: %w", err)
	}
	return Kind(head[0]), p, nil
}
