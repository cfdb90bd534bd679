//go:build kernelnbd

package scenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// traffic is what the kernel has done on a device, see block/stat in its documentation.
type traffic struct{ requests, bytes int64 }

func trafficOf(t *testing.T, device string) traffic {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/sys/block", device, "stat"))
	if err != nil {
		t.Fatal(err)
	}
	var reads, readMerges, readSectors, readTicks, writes, writeMerges, writeSectors int64
	if _, err := fmt.Sscan(string(b), &reads, &readMerges, &readSectors, &readTicks, &writes, &writeMerges, &writeSectors); err != nil {
		t.Fatalf("stat %q: %v", b, err)
	}
	return traffic{reads + writes, (readSectors + writeSectors) * 512}
}

// rate is what is done in a while, each second.
func rate(t *testing.T, device string, while time.Duration) traffic {
	t.Helper()
	began, before := time.Now(), trafficOf(t, device)
	pause(t, while)
	after, took := trafficOf(t, device), time.Since(began).Seconds()
	return traffic{int64(float64(after.requests-before.requests) / took), int64(float64(after.bytes-before.bytes) / took)}
}

// A change of limits holds for a fio that runs, soon, without the volume being taken
// away from it; lifting them does too.
func TestLimitsChangeUnderFio(t *testing.T) {
	c := single(t, "n1")
	v := c.create("limited", 256*mib, fsVolume("ext4"), nil, nil)
	at := c.up(v, "n1")
	before := ourDevices(t)
	device := before[0]
	fio := startFio(t, at, 32*mib)
	free := traffic{}
	eventually(t, time.Minute, "fio works", func(context.Context) error {
		if free = rate(t, device, time.Second); free.requests < 200 {
			return fmt.Errorf("%d requests a second", free.requests)
		}
		return nil
	})
	t.Logf("without limits: %d requests and %d KiB a second", free.requests, free.bytes/1024)

	modify := func(iops, bandwidth string) time.Time {
		call(t, drop(c.rpc().ControllerModifyVolume), &csi.ControllerModifyVolumeRequest{
			VolumeId: v.GetVolumeId(), MutableParameters: map[string]string{"iops": iops, "bandwidth": bandwidth},
		})
		return time.Now()
	}
	const iops, bandwidth = 40, mib
	for _, limit := range []struct {
		what            string
		iops, bandwidth string
		over            func(traffic) bool
	}{
		// A request that had its turn may end in the window after it.
		{"40 requests a second", fmt.Sprint(iops), "0", func(r traffic) bool { return r.requests > iops*5/4 }},
		{"1 MiB a second", "0", fmt.Sprint(bandwidth), func(r traffic) bool { return r.bytes > bandwidth*5/4 }},
		{"no limit", "0", "0", func(r traffic) bool { return r.requests < 3*iops || r.bytes < 2*bandwidth }},
	} {
		since := modify(limit.iops, limit.bandwidth)
		var got traffic
		eventually(t, time.Minute, limit.what, func(context.Context) error {
			if got = rate(t, device, 500*time.Millisecond); limit.over(got) {
				return fmt.Errorf("%+v", got)
			}
			return nil
		})
		t.Logf("%s: holds %v after the answer (half a second of that is measuring): %d requests and %d KiB a second",
			limit.what, time.Since(since).Round(10*time.Millisecond), got.requests, got.bytes/1024)
		if limit.what != "no limit" {
			if got = rate(t, device, 2*time.Second); limit.over(got) {
				t.Errorf("%s: later %+v", limit.what, got)
			}
		}
	}
	if now := ourDevices(t); !slices.Equal(now, before) {
		t.Errorf("devices before: %v, now: %v", before, now)
	}
	if log := c.nodes["n1"].tail(1000); strings.Contains(log, "lost its store") {
		t.Error("the link was cut")
	}
	fio.verify(t)
	c.down(v, "n1")
	c.remove(v)
	c.log.clean(t)
	c.ended()
}
