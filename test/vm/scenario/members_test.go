//go:build kernelnbd

package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// uuid of a running store.
func (c *cluster) uuid(s *storeHost) string {
	c.t.Helper()
	var st struct {
		UUID string `json:"uuid"`
	}
	if err := json.Unmarshal([]byte(c.strata(s, "status", "--format", "json")), &st); err != nil {
		c.t.Fatal(err)
	}
	return st.UUID
}

// holds tells whether a store has an image of that name.
func (c *cluster) holds(s *storeHost, name string) bool {
	c.t.Helper()
	var images []struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal([]byte(c.strata(s, "ls", "--format", "json")), &images); err != nil {
		c.t.Fatal(err)
	}
	for _, i := range images {
		if i.Name == name {
			return true
		}
	}
	return false
}

// One of two stores is down. What is on the other goes on as before; what is on it
// waits and is never taken for gone; and nothing is made twice.
func TestOneOfTwoStoresIsDown(t *testing.T) {
	r, c := random(t), newCluster(t)
	a, b := c.addStore("store-a", ""), c.addStore("store-b", "")
	c.writePools(fmt.Sprintf("pools:\n  - name: default\n    backend: layered\n    members: [\"unix:%s/api.sock\", \"unix:%s/api.sock\"]\n", a.data, b.data))
	c.addController("")
	c.addNode("n1")
	missing := c.uuid(b)

	var onA, onB *volume
	made := map[string]*volume{}
	for i := 0; onA == nil || onB == nil || i < 6; i++ {
		name := fmt.Sprintf("early-%d", i)
		v := c.create(name, 512*mib, fsVolume("ext4"), nil, nil)
		made[name] = v
		if c.holds(a, name) {
			onA = v
		} else {
			onB = v
		}
		if i > 40 {
			t.Fatal("40 volumes were all made on one of two stores")
		}
	}
	at := c.up(onA, "n1")
	steady := startSteady(t, filepath.Join(at, "steady"), 8*mib, r)
	steady.advance(t, 20, time.Minute)
	b.kill()

	c.refusedWhileMissing(t, onB, missing)
	// The requests of the early ones come again, as after a lost reply: the same
	// volume, or not now.
	waiting := c.createWhileMissing(t, made)
	c.emptyStoreIsRefused(t, b, onB)
	steady.advance(t, 20, time.Minute) // nothing on the live store is fenced
	c.log.clean(t)

	b.start()
	b.serving()
	for name := range waiting {
		made[name] = c.create(name, 512*mib, fsVolume("ext4"), nil, nil)
	}
	for name := range made {
		if c.holds(a, name) && c.holds(b, name) {
			t.Errorf("%s was made on both stores", name)
		}
	}
	list := call(t, drop(c.rpc().ListVolumes), &csi.ListVolumesRequest{})
	if len(list.GetEntries()) != len(made) {
		t.Errorf("ListVolumes has %d entries; want %d", len(list.GetEntries()), len(made))
	}
	steady.verify(t)
	c.down(onA, "n1")
	for _, v := range made {
		c.remove(v)
	}
	c.ended()
}

// refusedWhileMissing asks what only all stores together can answer.
func (c *cluster) refusedWhileMissing(t *testing.T, onMissing *volume, uuid string) {
	t.Helper()
	want := func(what string, err error) {
		t.Helper()
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), uuid) {
			t.Errorf("%s = %v; want UNAVAILABLE naming store %s", what, err, uuid)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	_, err := c.rpc().ListVolumes(ctx, &csi.ListVolumesRequest{})
	want("ListVolumes", err)
	_, err = c.rpc().ListSnapshots(ctx, &csi.ListSnapshotsRequest{})
	want("ListSnapshots", err)
	for range 3 {
		_, err = c.rpc().DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: onMissing.GetVolumeId()})
		want("DeleteVolume", err)
	}
}

// createWhileMissing makes new volumes and repeats earlier requests. It returns the
// names of those that have to wait.
func (c *cluster) createWhileMissing(t *testing.T, made map[string]*volume) map[string]bool {
	t.Helper()
	waiting, placed := map[string]bool{}, 0
	names := []string{}
	for name := range made {
		names = append(names, name)
	}
	for i := range 8 {
		names = append(names, fmt.Sprintf("late-%d", i))
	}
	for _, name := range names {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		reply, err := c.rpc().CreateVolume(ctx, &csi.CreateVolumeRequest{
			Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: 512 * mib},
			VolumeCapabilities: []*csi.VolumeCapability{fsVolume("ext4")},
		})
		cancel()
		switch old := made[name]; {
		case err != nil && status.Code(err) != codes.Unavailable && status.Code(err) != codes.Aborted:
			t.Errorf("CreateVolume(%s) = %v; want a volume, or UNAVAILABLE", name, err)
		case err != nil:
			waiting[name] = true
		case old != nil && reply.GetVolume().GetVolumeId() != old.GetVolumeId():
			t.Errorf("CreateVolume(%s) made %s; it was %s", name, reply.GetVolume().GetVolumeId(), old.GetVolumeId())
		case old == nil:
			placed++
			made[name] = &volume{Volume: reply.GetVolume(), capability: fsVolume("ext4"), published: map[string]map[string]string{}}
		}
	}
	t.Logf("with one of two stores down, %d new volumes were made and %d requests wait", placed, len(waiting))
	return waiting
}

// emptyStoreIsRefused starts a new store under the address of a missing one: it is not
// that one, so nothing is deleted because it does not know it, and nothing is put there.
func (c *cluster) emptyStoreIsRefused(t *testing.T, gone *storeHost, onGone *volume) {
	t.Helper()
	kept := gone.data + ".kept"
	if err := os.Rename(gone.data, kept); err != nil {
		t.Fatal(err)
	}
	c.mkdir(gone.data)
	// Without --init it does not start at all.
	plain := newProcess(t, c.dir, "plain", "", gone.args...)
	plain.start()
	<-plain.done
	if plain.cmd.ProcessState.Success() {
		t.Error("a store started on an empty directory")
	}
	empty := newProcess(t, c.dir, "empty", "", append(gone.args, "--init")...)
	empty.start()
	(&storeHost{process: empty, data: gone.data}).serving()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := c.rpc().DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: onGone.GetVolumeId()}); status.Code(err) != codes.Unavailable {
		t.Errorf("DeleteVolume while another store answers at the address = %v; want UNAVAILABLE", err)
	}
	if _, err := c.rpc().ListVolumes(ctx, &csi.ListVolumesRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("ListVolumes while another store answers at the address = %v; want UNAVAILABLE", err)
	}
	empty.stop()
	if err := os.RemoveAll(gone.data); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(kept, gone.data); err != nil {
		t.Fatal(err)
	}
}
