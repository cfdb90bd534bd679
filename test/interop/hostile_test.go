package interop

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// Options that no honest client sends: framing holds, so a good one still works afterwards.
func TestHostileOptions(t *testing.T) {
	l := need(t, "qemu-io")
	s := start(t)
	s.strata("create", "--size", "16M", "img")
	for name, misuse := range map[string]func(w *wire){
		"unknown option":          func(w *wire) { w.refused(0x7777, nil) },
		"unknown with payload":    func(w *wire) { w.refused(0x7778, make([]byte, 4096)) },
		"fifty unknown":           func(w *wire) { repeat(50, func(i int) { w.refused(uint32(1000+i), []byte("x")) }) },
		"TLS is not offered":      func(w *wire) { w.refused(optStartTLS, nil) },
		"TLS with payload":        func(w *wire) { w.refused(optStartTLS, []byte("x")) },
		"LIST with payload":       func(w *wire) { w.refused(optList, []byte("img")) },
		"GO of nothing":           func(w *wire) { w.refused(optGo, nil) },
		"GO cut in the length":    func(w *wire) { w.refused(optGo, []byte{0, 0}) },
		"GO with a lying length":  func(w *wire) { w.refused(optGo, append(be32(1<<31), "img\x00\x00"...)) },
		"GO with a lying count":   func(w *wire) { w.refused(optGo, append(be32(3), "img\xff\xff"...)) },
		"GO with trailing bytes":  func(w *wire) { w.refused(optGo, append(be32(3), "img\x00\x00trailing"...)) },
		"GO of a name not UTF-8":  func(w *wire) { w.refused(optGo, append(be32(3), "\xff\xfe\xfd\x00\x00"...)) },
		"context before replies":  func(w *wire) { w.refused(optSetMeta, append(be32(3), "img\x00\x00\x00\x00"...)) },
		"context, lying count":    func(w *wire) { w.refused(optSetMeta, append(be32(3), "img\xff\xff\xff\xff"...)) },
		"context of unknown name": func(w *wire) { w.refused(optSetMeta, append(be32(3), "gmi\x00\x00\x00\x00"...)) },
	} {
		t.Run(name, func(t *testing.T) {
			for network, address := range s.listeners() {
				w := dial(t, network, address)
				w.flags()
				misuse(w)
				w.goTo("img")
				if b := w.read(0, 4096); !bytes.Equal(b, make([]byte, 4096)) {
					t.Errorf("the empty image reads %x…", b[:16])
				}
				w.disconnect()
			}
		})
	}
	s.alive()
	qemuIO(l, s.uri("img"), "write -P 1 0 1M", "read -P 1 0 1M")
	l.result("an honest client works after all of it")
}

// What breaks the framing, or never ends, costs the connection and nothing else.
func TestHostileHandshakeIsDropped(t *testing.T) {
	l := need(t, "qemu-io")
	s := start(t)
	s.strata("create", "--size", "16M", "img")
	for name, misuse := range map[string]func(w *wire){
		"unknown client flags":   func(w *wire) { w.send(uint32(0xffff0003)) },
		"wrong option magic":     func(w *wire) { w.flags(); w.send(uint64(0x1122334455667788), uint32(optGo), uint32(0)) },
		"option of 4 GiB":        func(w *wire) { w.flags(); w.send(uint64(magicOption), uint32(optGo), uint32(0xffffffff)) },
		"unknown option, 4 GiB":  func(w *wire) { w.flags(); w.send(uint64(magicOption), uint32(0x7777), uint32(0xffffffff)) },
		"EXPORT_NAME of nothing": func(w *wire) { w.flags(); w.send(uint64(magicOption), uint32(optExportName), uint32(6), "nosuch") },
		"ABORT":                  func(w *wire) { w.flags(); w.option(optAbort, nil) },
		"endless options": func(w *wire) {
			w.flags()
			// Both directions must move, else the store is right to wait for us.
			go drain(w)
			for i := 0; i < 1<<20; i++ {
				if w.trySend(uint64(magicOption), uint32(0x7777), uint32(0)) != nil {
					return
				}
			}
			w.t.Error("a million options were accepted in one handshake")
		},
	} {
		t.Run(name, func(t *testing.T) {
			for network, address := range s.listeners() {
				w := dial(t, network, address)
				misuse(w)
				w.dropped()
				s.alive()
			}
		})
	}
	qemuIO(l, s.uri("img"), "write -P 1 0 1M", "read -P 1 0 1M")
	l.result("an honest client works after all of it")
}

// Requests that are wrong but well framed: an error, and the connection lives on.
func TestHostileRequests(t *testing.T) {
	l := need(t, "qemu-io")
	s := start(t)
	s.strata("create", "--size", "16M", "img")
	const einval = 22
	for name, c := range map[string]struct {
		flags, command uint16
		offset         uint64
		length         uint32
		payload        int
	}{
		"unknown command":           {command: 99, length: 4096},
		"unknown command, length 0": {command: 0xffff},
		"command 8 (resize)":        {command: 8, offset: 1 << 40},
		"read with all flags":       {flags: 0xffff, command: cmdRead, length: 4096},
		"write with all flags":      {flags: 0xffff, command: cmdWrite, length: 4096, payload: 4096},
		"read of 4 GiB - 1":         {command: cmdRead, length: 0xffffffff},
		"read at 2^64 - 1":          {command: cmdRead, offset: 1<<64 - 1, length: 4096},
		"trim over the end":         {command: cmdTrim, offset: 16<<20 - 4096, length: 8192},
		"trim that overflows":       {command: cmdTrim, offset: 1<<64 - 4096, length: 8192},
	} {
		t.Run(name, func(t *testing.T) {
			for network, address := range s.listeners() {
				w := dial(t, network, address)
				w.flags()
				w.goTo("img")
				w.request(c.flags, c.command, 1, c.offset, c.length, make([]byte, c.payload))
				if errno := w.answer(1); errno != einval && errno != 75 && errno != 95 {
					t.Errorf("answered with error %d, want EINVAL", errno)
				}
				if b := w.read(0, 4096); !bytes.Equal(b, make([]byte, 4096)) {
					t.Errorf("the empty image reads %x…", b[:16])
				}
				w.disconnect()
			}
		})
	}
	s.alive()
	qemuIO(l, s.uri("img"), "write -P 1 0 1M", "read -P 1 0 1M")
	l.result("an honest client works after all of it")
}

// A request with a wrong magic, and one whose payload never comes.
func TestHostileCuts(t *testing.T) {
	l := need(t, "qemu-io")
	s := start(t)
	s.strata("create", "--size", "16M", "img")
	qemuIO(l, s.uri("img"), "write -P 1 0 16M")
	rng := seeded(t)
	for network, address := range s.listeners() {
		w := dial(t, network, address)
		w.flags()
		w.goTo("img")
		_ = w.trySend(uint32(0xdeadbeef), make([]byte, 24))
		w.dropped()

		w = dial(t, network, address)
		w.flags()
		w.goTo("img")
		// It may be dropped before all of this is sent.
		_ = w.trySend(uint32(magicReq), uint16(0), uint16(cmdWrite), uint64(1), uint64(0), uint32(0xffffffff), make([]byte, 1<<20))
		w.dropped()

		for range 200 {
			w := dial(t, network, address)
			cutSomewhere(w, rng)
			w.Close()
		}
	}
	s.alive()
	qemuIO(l, s.uri("img"), "read -P 1 0 16M")
	l.result("400 connections cut in the middle: no byte of an incomplete write is seen")
}

// cutSomewhere sends a handshake and a write of 64 KiB, but stops before its last byte.
func cutSomewhere(w *wire, rng *rand.Rand) {
	var b []byte
	b = append(b, be32(3)...)
	b = binary.BigEndian.AppendUint64(b, magicOption)
	b = append(append(append(b, be32(optGo)...), be32(9)...), be32(3)...)
	b = append(b, "img\x00\x00"...)
	b = append(append(b, be32(magicReq)...), 0, 0, 0, cmdWrite)
	b = append(append(b, make([]byte, 8+8)...), be32(65536)...)
	b = append(b, bytes.Repeat([]byte{2}, 65536)...)
	_ = w.trySend(b[:rng.IntN(len(b))])
}

func TestHostileGarbage(t *testing.T) {
	l := need(t, "qemu-io")
	s := start(t)
	s.strata("create", "--size", "16M", "img")
	rng := seeded(t)
	for network, address := range s.listeners() {
		for i := range 300 {
			w := dial(t, network, address)
			if i%2 == 0 {
				w.flags()
			}
			if i%4 == 0 {
				w.goTo("img")
			}
			b := make([]byte, 1+rng.IntN(16<<10))
			fill(rng, b)
			_ = w.trySend(b)
			w.Close()
		}
	}
	s.alive()
	qemuIO(l, s.uri("img"), "write -P 1 0 1M", "read -P 1 0 1M")
	l.result("600 connections of random bytes survived")
}

func repeat(n int, f func(i int)) {
	for i := range n {
		f(i)
	}
}

func drain(w *wire) {
	b := make([]byte, 64<<10)
	for {
		if _, err := w.Read(b); err != nil {
			return
		}
	}
}

// listeners gives network and address of each.
func (s *server) listeners() map[string]string {
	return map[string]string{"unix": s.socket(), "tcp": s.tcp}
}
