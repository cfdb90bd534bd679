package interop

import (
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// budget is the bytes in flight which the store may hold.
	budget = 256 * mib
	// allowance is what the process may take beside them: the runtime, the
	// catalogue, maps and caches, goroutine stacks and socket buffers in user space.
	allowance = 256 * mib
	// prompt bounds what an honest client waits for while others misbehave.
	prompt = 20 * time.Second
)

// withinBudget fails the test if the store ever held more memory than it may.
func (s *server) withinBudget(l *tool) {
	s.t.Helper()
	now, highest := s.memory()
	if highest > budget+allowance {
		s.t.Errorf("the store's memory rose to %d MiB, allowed are %d", highest/mib, (budget+allowance)/mib)
	}
	l.result("memory of the store: %d MiB now, %d MiB at its highest, limit %d MiB",
		now/mib, highest/mib, (budget+allowance)/mib)
}

// honest writes and reads back through qemu-io, which must be done promptly.
func (s *server) honest(l *tool, uri string) {
	s.t.Helper()
	s.promptly(l, uri, "write -P 7 0 1M", "flush", "read -P 7 0 1M", "write -P 8 4M 4k", "read -P 8 4M 4k")
}

// honestAndLarge is honest with requests as large as those of the attackers. Only on the
// unix socket, where it is another peer than they are, is it not behind all of them.
func (s *server) honestAndLarge(l *tool, uri string) {
	s.t.Helper()
	s.promptly(l, uri, "write -P 9 8M 32M", "read -P 9 8M 32M")
}

func (s *server) promptly(l *tool, uri string, commands ...string) {
	s.t.Helper()
	begin := time.Now()
	qemuIO(l, uri, commands...)
	took := time.Since(begin)
	if took > prompt {
		s.t.Errorf("an honest client waited %v while others misbehave", took)
	}
	l.result("an honest client was served in %v", took.Round(time.Millisecond))
}

func startForExhaustion(t *testing.T) *server {
	t.Helper()
	s := start(t)
	s.strata("create", "--size", "64M", "honest")
	for _, name := range []string{"victim-unix", "victim-tcp"} {
		s.strata("create", "--size", "256M", name)
	}
	return s
}

// Thousands of connections which never say a word, or only the first one.
func TestHostileHalfOpenHandshakes(t *testing.T) {
	l := need(t, "qemu-io")
	s := startForExhaustion(t)
	const each = 2000
	raiseFiles(t, 2*each+1000)
	for network, address := range s.listeners() {
		for i := range each {
			c, err := net.DialTimeout(network, address, patience)
			if err != nil {
				break // refusing is one way to defend itself
			}
			defer c.Close()
			if i%2 == 0 {
				_, _ = c.Write(be32(3))
			}
			if i%500 == 499 {
				s.honest(l, s.uri("honest"))
				s.honest(l, s.tcpURI("honest"))
			}
		}
	}
	s.honest(l, s.uri("honest"))
	s.honest(l, s.tcpURI("honest"))
	s.alive()
	s.withinBudget(l)
	l.result("%d half-open handshakes held open", 2*each)
}

// Writes of 32 MiB whose payload stops one byte short, on many connections.
func TestHostileStalledWrites(t *testing.T) {
	l := need(t, "qemu-io")
	s := startForExhaustion(t)
	var sent sync.WaitGroup
	for network, address := range s.listeners() {
		for range 16 {
			w := dial(t, network, address)
			w.flags()
			w.goTo("victim-" + network)
			sent.Go(func() {
				_ = w.trySend(uint32(magicReq), uint16(0), uint16(cmdWrite), uint64(1), uint64(0), uint32(32*mib), make([]byte, 32*mib-1))
			})
		}
	}
	s.honest(l, s.uri("honest"))
	s.honest(l, s.tcpURI("honest"))
	s.honestAndLarge(l, s.uri("honest"))
	s.alive()
	s.withinBudget(l)
	closeAll(t, &sent)
	l.result("32 connections stalled in a write of 32 MiB")
}

// Reads of 32 MiB whose answers nobody takes, many on each of many connections.
func TestHostileUnreadReplies(t *testing.T) {
	l := need(t, "qemu-io")
	s := startForExhaustion(t)
	// Data, so that no reply is a mere hole.
	qemuIO(l, s.uri("victim-unix"), "write -P 1 0 256M")
	qemuIO(l, s.uri("victim-tcp"), "write -P 1 0 256M")
	for network, address := range s.listeners() {
		for range 16 {
			w := dial(t, network, address)
			w.flags()
			w.goTo("victim-" + network)
			for i := range uint64(100) {
				if w.trySend(uint32(magicReq), uint16(0), uint16(cmdRead), i, (i%8)*uint64(32*mib), uint32(32*mib)) != nil {
					break
				}
			}
		}
	}
	s.honest(l, s.uri("honest"))
	s.honest(l, s.tcpURI("honest"))
	s.honestAndLarge(l, s.uri("honest"))
	s.alive()
	s.withinBudget(l)
	l.result("3,200 reads of 32 MiB asked for and not taken")
}

// closeAll waits for the attackers of a test; their connections end with their deadline
// or when the store has had enough.
func closeAll(t *testing.T, attackers *sync.WaitGroup) {
	t.Helper()
	t.Cleanup(attackers.Wait)
}

// raiseFiles lets this process, and so the store that it starts, open n files.
func raiseFiles(t *testing.T, n uint64) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < n {
		limit.Cur = min(n, limit.Max)
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatalf("%d open files: %v", n, err)
		}
	}
}
