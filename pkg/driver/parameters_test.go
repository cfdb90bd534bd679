package driver

import (
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/volume"
)

func ptr[T any](v T) *T { return &v }

func TestReadParameters(t *testing.T) {
	got, err := readParameters(map[string]string{
		"Pool": "fast", "SOFTCLONEDEPTH": "4", "hardCloneDepth": "20", "clonemode": "copy", "blockSize": "512",
		"iops": "100", "bandwidth": "10Mi", "csi.storage.k8s.io/fstype": "xfs", "csi.storage.k8s.io/pvc/name": "x",
	}, map[string]string{"Iops": "200", "softCloneDepth": "6"})
	want := parameters{pool: "fast", cloneMode: "copy", blockSize: 512, tuning: volume.Tuning{
		Soft: ptr(6), Hard: ptr(20), IOPS: ptr(int64(200)), Bandwidth: ptr(int64(10 << 20)),
	}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for value, bytes := range map[string]int64{"0": 0, "7": 7, "1Ki": 1024, "2k": 2000, "3M": 3e6, "1Gi": 1 << 30, "2T": 2e12, "1Ti": 1 << 40} {
		got, err := readMutable(map[string]string{"bandwidth": value})
		if err != nil || *got.Bandwidth != bytes {
			t.Errorf("bandwidth %s: %v, %v", value, got.Bandwidth, err)
		}
	}
}

func TestReadParametersRefuses(t *testing.T) {
	for _, c := range []struct {
		class, attributes map[string]string
		want              string
	}{
		{map[string]string{"poool": "x"}, nil, `unknown parameter "poool"`},
		{map[string]string{"csi.storage.k8s.io": "x"}, nil, "unknown parameter"},
		{map[string]string{"iops": "1", "IOPS": "1"}, nil, "are the same"},
		{map[string]string{"iops": "many"}, nil, `parameter iops is "many"`},
		{map[string]string{"iops": "1k"}, nil, "iops"},
		{map[string]string{"iops": "-1"}, nil, "iops"},
		{map[string]string{"bandwidth": "9999999Ti"}, nil, "bandwidth"},
		{map[string]string{"bandwidth": "Mi"}, nil, "bandwidth"},
		{map[string]string{"softCloneDepth": "0"}, nil, "softCloneDepth"},
		{map[string]string{"softCloneDepth": "40000"}, nil, "softCloneDepth"},
		{map[string]string{"hardCloneDepth": "1.5"}, nil, "hardCloneDepth"},
		{map[string]string{"blockSize": "x"}, nil, "blockSize"},
		{nil, map[string]string{"pool": "x"}, `unknown parameter "pool"`},
		{nil, map[string]string{"XXX_FakeKey": "x"}, "XXX_FakeKey"},
	} {
		_, err := readParameters(c.class, c.attributes)
		if !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v %v: %v", c.class, c.attributes, err)
		}
	}
}

// TestTicket: what the controller writes, the node reads; what is damaged is refused
// without repeating the secret.
func TestTicket(t *testing.T) {
	want := ticket{Pool: "p", Store: string(store.NewID()), Image: store.NewID(), Epoch: 7, Token: strings.Repeat("5e", 16), Access: store.AccessScratch}
	if got, err := readTicket(want.context()); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for key := range want.context() {
		for _, value := range []string{"", "?"} {
			c := maps.Clone(want.context())
			if c[key] = value; value == "?" && (key == contextPool || key == contextToken) {
				continue
			}
			_, err := readTicket(c)
			if !errors.Is(err, store.ErrInvalid) || strings.Contains(err.Error(), want.Token) {
				t.Errorf("%s = %q: %v", key, value, err)
			}
		}
	}
}
