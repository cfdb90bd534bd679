package stage_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/attach"
	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/store"
)

// recordFile is the file of the one record.
func (r *rig) recordFile() string {
	r.t.Helper()
	list, err := filepath.Glob(filepath.Join(r.Dir, "node", "*.json"))
	r.must(err)
	if len(list) != 1 {
		r.t.Fatalf("records: %v", list)
	}
	return list[0]
}

func TestRecordsAreForTheirOwnerOnly(t *testing.T) {
	r := newRig(t, false)
	r.must(r.svc.Stage(t.Context(), r.ext4(1)))
	for _, path := range []string{r.recordFile(), filepath.Join(r.Dir, "node")} {
		info, err := os.Stat(path)
		r.must(err)
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v; it holds a token", path, info.Mode())
		}
	}
	// What is told of volumes holds no token.
	text, err := json.Marshal(r.svc.List())
	r.must(err)
	if strings.Contains(string(text), "feed0001") {
		t.Errorf("the token is in %s", text)
	}
}

func TestOneProcessADirectory(t *testing.T) {
	r := newRig(t, false)
	_, err := stage.Open(t.Context(), r.Config())
	wantErr(t, err, store.ErrInUse, "in use by another process")
	_, err = stage.Open(t.Context(), stage.Config{})
	wantErr(t, err, store.ErrInvalid, "are needed")
}

// A record that cannot be read is put aside, with an event; its volume is taken for one
// that is not here, and its device, which nobody uses, is ended.
func TestDamagedRecord(t *testing.T) {
	for name, damage := range map[string]func(map[string]any) []byte{
		"torn":            func(map[string]any) []byte { return []byte(`{"version":1,`) },
		"empty":           func(map[string]any) []byte { return nil },
		"newer":           func(m map[string]any) []byte { m["version"] = 99; b, _ := json.Marshal(m); return b },
		"another's":       func(m map[string]any) []byte { m["volume"] = "v1:other"; b, _ := json.Marshal(m); return b },
		"without version": func(m map[string]any) []byte { delete(m, "version"); b, _ := json.Marshal(m); return b },
	} {
		t.Run(name, func(t *testing.T) {
			r, ctx := newRig(t, false), t.Context()
			req, other := r.block(1), r.ext4(2)
			r.must(r.svc.Stage(ctx, req))
			path := r.recordFile()
			r.must(r.svc.Stage(ctx, other))
			r.close()
			r.Kernel.Forget()
			text, err := os.ReadFile(path)
			r.must(err)
			m := make(map[string]any)
			r.must(json.Unmarshal(text, &m))
			r.must(os.WriteFile(path, damage(m), 0o600))
			r.must(os.WriteFile(path+".tmp", []byte("unfinished"), 0o600))
			r.open()
			r.await(stage.Damaged, "")
			if e := r.await(stage.Orphan, ""); e.Err != nil {
				t.Errorf("the orphan was left: %v", e.Err)
			}
			if _, err := os.Stat(path + ".damaged"); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(path + ".tmp"); !errors.Is(err, os.ErrNotExist) {
				t.Error("the unfinished record is still there")
			}
			if !r.alive(imageID(2)) {
				t.Error("the other volume's link was touched")
			}
			r.must(os.Remove(path + ".damaged"))
			r.must(r.svc.Stage(ctx, req))
			r.must(r.svc.Unstage(ctx, req.Volume, req.Path))
			r.must(r.svc.Unstage(ctx, other.Volume, other.Path))
			r.clean("at the end")
		})
	}
}

// A device whose record is lost is left alone while it is in use.
func TestOrphanInUse(t *testing.T) {
	needRoot(t)
	r, ctx := newRig(t, true), t.Context()
	req := r.request(r.image(1, 16*mib, nil), store.AccessWrite, stage.Capability{})
	r.must(r.svc.Stage(ctx, req))
	raw := r.request(r.image(2, 16*mib, nil), store.AccessWrite, stage.Capability{Block: true})
	r.must(r.svc.Stage(ctx, raw))
	dev := r.publish(raw, "dev")
	r.must(r.svc.Publish(ctx, dev))
	held := r.request(r.image(3, 16*mib, nil), store.AccessWrite, stage.Capability{Block: true})
	r.must(r.svc.Stage(ctx, held))
	v, _ := r.volume(held.Volume)
	f, err := os.Open(v.Device)
	r.must(err)
	r.close()
	records, err := filepath.Glob(filepath.Join(r.Dir, "node", "*.json"))
	r.must(err)
	for _, p := range records {
		r.must(os.Remove(p))
	}
	r.open()
	r.until("three orphans are told of", func() bool { return r.count(stage.Orphan) == 3 })
	devices, err := r.Kernel.Devices(ctx)
	r.must(err)
	if len(devices) != 3 {
		t.Errorf("devices in use were ended: %v", r.kinds())
	}
	wantErr(t, r.svc.Stage(ctx, req), stage.ErrState, "has no record and is in use")
	if !r.alive(imageID(1)) {
		t.Error("the device in use was cut off")
	}
	// The CO takes back what it knows of; then nothing holds them.
	r.must(f.Close())
	r.must(r.svc.Unpublish(ctx, raw.Volume, dev.Target.Path))
	r.must(r.svc.Unstage(ctx, req.Volume, req.Path))
	r.restart()
	r.until("all orphans are ended", func() bool { return r.count(stage.Orphan) == 6 })
	r.clean("at the end")
}

// Somebody else has ended a device that is mounted. It is said to be lost, and can be
// taken back.
func TestDeviceEndedByAnother(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req := r.ext4(1)
	r.must(r.svc.Stage(ctx, req))
	r.close()
	r.must(r.Kernel.Boot()) // the mount stays
	r.open()
	h, err := r.svc.Health(req.Volume)
	r.must(err)
	if !strings.Contains(h.Fenced, "was ended by somebody else") {
		t.Errorf("health %+v", h)
	}
	r.must(r.svc.Unstage(ctx, req.Volume, req.Path))
	r.must(r.svc.Stage(ctx, req))
	// And while the process runs: the next reconnect finds it gone.
	r.forgetEvents()
	devices, err := r.Kernel.Devices(ctx)
	r.must(err)
	r.must(r.Kernel.Disconnect(ctx, attach.Device{Index: devices[0].Index, Backend: "strata:other"})) // not its own
	r.Kernel.Open = nil
	r.must(r.Kernel.Disconnect(ctx, devices[0]))
	r.await(stage.Fenced, req.Volume)
	r.must(r.svc.Unstage(ctx, req.Volume, req.Path))
	r.clean("at the end")
}

// The node's note is at the store, and follows the number of devices.
func TestRegistration(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	note := func() string {
		n, err := r.Store.Note(ctx, "node/node-1")
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
		return n
	}
	r.until("registered", func() bool { return note() == `{"maxVolumes":256}` })
	r.must(r.svc.Stage(ctx, r.ext4(1)))
	if n, err := r.svc.MaxVolumes(ctx); n != 256 || err != nil {
		t.Errorf("%d volumes at most (%v), one of them staged", n, err)
	}
	r.close()
	r.Kernel.SetMax(100)
	r.Store.Kill()
	r.open()
	r.await(stage.Unregistered, "")
	r.Store.Start()
	r.until("registered anew", func() bool { return note() == `{"maxVolumes":100}` })
}

// Nothing that hangs on one volume keeps Close from saying so.
func TestCloseTellsWhatHangs(t *testing.T) {
	r := newRig(t, false)
	req := r.ext4(1)
	free, entered := make(chan struct{}), make(chan struct{})
	r.Mounter.Fail.Set(func(string) error {
		r.Mounter.Fail.Set(nil)
		close(entered)
		<-free
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	wantErr(t, r.svc.Stage(ctx, req), context.Canceled, "still being mounted")
	over, stop := context.WithCancel(t.Context())
	stop()
	err := r.svc.Close(over)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), req.Volume+" is being mounted") {
		t.Errorf("close: %v", err)
	}
	wantErr(t, r.svc.Unstage(t.Context(), "v1:another", req.Path), store.ErrClosed, "unstage")
	close(free)
}
