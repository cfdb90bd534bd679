package interop

import (
	"bytes"
	"context"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// python is Debian's own, for which python3-libnbd is built; PATH may hold another.
const python = "/usr/bin/python3"

// tool is a program that is not ours.
type tool struct {
	t       *testing.T
	path    string
	name    string
	version string
}

// need finds a tool. Without it the test fails, or is skipped with STRATA_ALLOW_SKIP=1.
func need(t *testing.T, name string, versionArgs ...string) *tool {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, name)
	}
	if len(versionArgs) == 0 {
		versionArgs = []string{"--version"}
	}
	out, err := exec.Command(path, versionArgs...).CombinedOutput()
	if err != nil {
		missing(t, name+": "+string(out))
	}
	version, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return &tool{t: t, path: path, name: filepath.Base(name), version: version}
}

// needLibnbd finds libnbd's Python binding, which has every call of the library.
func needLibnbd(t *testing.T) *tool {
	t.Helper()
	l := need(t, python, "-c", "import nbd; print('libnbd', nbd.NBD().get_version())")
	l.name = "python3-libnbd"
	return l
}

func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("STRATA_ALLOW_SKIP") == "1" {
		t.Skipf("not here: %s (make setup installs it)", what)
	}
	t.Fatalf("not here: %s (make setup installs it; STRATA_ALLOW_SKIP=1 does without)", what)
}

// run runs the tool, which must succeed, and gives its standard output.
func (l *tool) run(args ...string) string {
	l.t.Helper()
	out, err := l.try(args...)
	if err != nil {
		l.t.Fatalf("%s %s: %v\n%s", l.name, strings.Join(args, " "), err, out)
	}
	return out
}

// try runs the tool; after an error the output has both streams.
func (l *tool) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, l.path, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if err != nil {
		return stdout.String() + stderr.String(), err
	}
	return stdout.String(), nil
}

// result puts the tool, its version and what it found into the output.
func (l *tool) result(format string, args ...any) {
	l.t.Helper()
	l.t.Logf("%s [%s]: "+format, append([]any{l.name, l.version}, args...)...)
}

// seeded gives the test's randomness and prints how to have it again.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("STRATA_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("STRATA_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("replay with STRATA_SEED=%d", seed)
	h := fnv.New64a()
	h.Write([]byte(t.Name()))
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

const mib = int64(1) << 20

// sample writes a raw file of size bytes that has data, holes and written zeroes, at
// random places, and gives its path.
func sample(t *testing.T, rng *rand.Rand, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sample.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < size; {
		n := min(4096*(1+rng.Int64N(256)), size-off)
		b := make([]byte, n)
		switch rng.IntN(4) {
		case 0: // a hole
			off += n
			continue
		case 1: // zeroes that take space
		default:
			fill(rng, b)
		}
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
		off += n
	}
	return path
}

func fill(rng *rand.Rand, b []byte) {
	var key [32]byte
	for i := range key {
		key[i] = byte(rng.Uint32())
	}
	_, _ = rand.NewChaCha8(key).Read(b)
}

// same fails the test unless both files have the same bytes.
func same(t *testing.T, want, got string) {
	t.Helper()
	if out, err := exec.Command("cmp", want, got).CombinedOutput(); err != nil {
		t.Errorf("%s and %s differ: %s", want, got, out)
	}
}
