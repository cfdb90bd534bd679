package process

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func start(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Start(Spec{Name: "it", Args: []string{"sh", "-c", script}, Env: []string{"WORD=hello"}, Logs: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestEarlyEndIsTold(t *testing.T) {
	p := start(t, "echo $WORD; exit 3")
	<-p.Done()
	if err := p.Failed(); err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "hello") {
		t.Errorf("got %v, want its status and its log", err)
	}
	if err := p.Stop(time.Second); err != nil {
		t.Errorf("stop of what has ended: %v", err)
	}
}

func TestStop(t *testing.T) {
	polite := start(t, "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done")
	awaitLog(t, polite, "up")
	if err := polite.Stop(time.Minute); err != nil {
		t.Fatal(err)
	}
	if log := Tail(polite.log, 5); !strings.Contains(log, "bye") {
		t.Errorf("it was not asked: %q", log)
	}
	deaf := start(t, "trap '' TERM; echo up; while :; do sleep 0.01; done")
	awaitLog(t, deaf, "up")
	if deaf.Failed() != nil {
		t.Error("it is told to have ended while it runs")
	}
	if err := deaf.Stop(50 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(deaf.Pid(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("it is there after its end: %v", err)
	}
}

func awaitLog(t *testing.T, p *Process, word string) {
	t.Helper()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !strings.Contains(Tail(p.log, 5), word) {
		select {
		case <-p.Done():
			t.Fatal(p.Failed())
		case <-again.C:
		}
	}
}

func TestRun(t *testing.T) {
	out, err := Pipe(t.Context(), []byte("in"), "sh", "-c", "cat; echo no >&2; exit 4")
	if out != "in" || err == nil || !strings.Contains(err.Error(), "exit status 4: no") {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestStartTellsWhatIsMissing(t *testing.T) {
	if _, err := Start(Spec{Name: "it", Args: []string{"/none"}, Logs: t.TempDir()}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no program: %v", err)
	}
	if _, err := Start(Spec{Name: "it", Args: []string{"sh"}, Logs: filepath.Join(t.TempDir(), "none")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}
