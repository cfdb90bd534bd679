package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/app"
)

// members lists the pools of a file, by state.
func (b *bench) members(file string) map[string][]app.PoolMember {
	b.t.Helper()
	var all []app.PoolMember
	if err := json.Unmarshal([]byte(b.must("pool", "ls", "--pools", file, "--format", "json")), &all); err != nil {
		b.t.Fatal(err)
	}
	byState := make(map[string][]app.PoolMember)
	for _, m := range all {
		byState[m.State] = append(byState[m.State], m)
	}
	return byState
}

func TestPoolVerbs(t *testing.T) {
	b, other := newBench(t), newBench(t)
	file := filepath.Join(t.TempDir(), "pools.yaml")
	write := func(members ...string) {
		t.Helper()
		text := "pools:\n  - name: here\n    members: [" + strings.Join(members, ", ") + "]\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	one, two := "unix:"+b.dir+"/api.sock", "unix:"+other.dir+"/api.sock"
	write(one, two)
	if m := b.members(file); len(m["joined"])+len(m["joining"]) != 2 {
		t.Fatalf("members: %+v", m)
	}
	write(one)
	m := b.members(file) // the other one is remembered, and answers where it was
	if len(m["joined"]) != 2 || m["joined"][0].Node != "rack1" {
		t.Fatalf("members when the file no longer names one: %+v", m)
	}
	lost := m["joined"][0].UUID
	if m["joined"][0].Address == one {
		lost = m["joined"][1].UUID
	}
	if r := b.run("pool", "forget", lost, "--pools", file); r.code != 1 || !strings.Contains(r.err, "stop") {
		t.Errorf("a store that answers was given up: %+v", r)
	}
	if r := b.run("pool", "forget", lost); r.code != 2 || !strings.Contains(r.err, "--pools") {
		t.Errorf("without a file: %+v", r)
	}
	other.stop()
	if m := b.members(file); len(m["missing"]) != 1 || m["missing"][0].UUID != lost || m["missing"][0].Reason == "" {
		t.Errorf("a store that is down: %+v", m)
	}
	b.must("pool", "forget", lost, "--pools", file)
	if m := b.members(file); len(m["missing"]) != 0 || len(m["forgotten"]) != 1 || m["forgotten"][0].UUID != lost {
		t.Errorf("after forget: %+v", m)
	}
}
