package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/app"
	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/storeapi"
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

// takeIn makes the stores of a file members of their pools, as a controller does.
func (b *bench) takeIn(file string) {
	b.t.Helper()
	cfg, err := pool.Load(file)
	if err != nil {
		b.t.Fatal(err)
	}
	set, err := pool.Open(cfg, pool.Options{Dial: func(addr string) (pool.Remote, error) {
		return storeapi.Dial(addr, storeapi.DialOptions{})
	}})
	if err != nil {
		b.t.Fatal(err)
	}
	for _, name := range set.Names() {
		if v, err := set.Fresh(b.t.Context(), name); err != nil || v.Err() != nil {
			b.t.Errorf("pool %s: %v, %v", name, v.Err(), err)
		}
	}
	if err := set.Close(); err != nil {
		b.t.Error(err)
	}
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
	for range 2 { // a look changes nothing: a store is not claimed for the name in some file
		if m := b.members(file); len(m["joining"]) != 2 {
			t.Fatalf("members that nobody has taken in: %+v", m)
		}
	}
	b.takeIn(file)
	if m := b.members(file); len(m["joined"]) != 2 {
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
