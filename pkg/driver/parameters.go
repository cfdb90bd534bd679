package driver

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/strata-csi/strata/pkg/volume"
)

// reserved begins the keys that sidecars add and that mean nothing here.
const reserved = "csi.storage.k8s.io/"

// mutableKeys are the parameters that can be changed later, as they are written.
var mutableKeys = []string{"softCloneDepth", "hardCloneDepth", "iops", "bandwidth"}

// fixedKeys are those that cannot.
var fixedKeys = []string{"pool", "cloneMode", "blockSize"}

// parameters are what a storage class chooses.
type parameters struct {
	pool      string
	cloneMode string
	blockSize int
	tuning    volume.Tuning
}

// readParameters reads the parameters of a storage class and, over them, those of a
// volume attributes class. Keys are compared without regard to case. store.ErrInvalid
// names the key that is not known or whose value is none.
func readParameters(class, attributes map[string]string) (parameters, error) {
	var p parameters
	if err := p.read(class, append(slices.Clone(fixedKeys), mutableKeys...)); err != nil {
		return parameters{}, err
	}
	return p, p.read(attributes, mutableKeys)
}

// readMutable reads what ControllerModifyVolume may change.
func readMutable(attributes map[string]string) (volume.Tuning, error) {
	var p parameters
	err := p.read(attributes, mutableKeys)
	return p.tuning, err
}

// read takes over all of m; keys are those allowed.
func (p *parameters) read(m map[string]string, keys []string) error {
	seen := make(map[string]string)
	for _, given := range sorted(m) {
		if strings.HasPrefix(given, reserved) {
			continue
		}
		i := slices.IndexFunc(keys, func(k string) bool { return strings.EqualFold(k, given) })
		if i < 0 {
			return invalid("unknown parameter %q; known are %s", given, cmp.Or(strings.Join(keys, ", "), "none"))
		}
		key := keys[i]
		if first, twice := seen[key]; twice {
			return invalid("parameters %q and %q are the same", first, given)
		}
		seen[key] = given
		if err := p.set(key, m[given]); err != nil {
			return err
		}
	}
	return nil
}

func (p *parameters) set(key, value string) error {
	var err error
	switch key {
	case "pool":
		p.pool = value
	case "cloneMode":
		p.cloneMode = value
	case "blockSize":
		var n *int
		if n, err = depth(key, value); err == nil {
			p.blockSize = *n
		}
	case "softCloneDepth":
		p.tuning.Soft, err = depth(key, value)
	case "hardCloneDepth":
		p.tuning.Hard, err = depth(key, value)
	case "iops":
		p.tuning.IOPS, err = rate(key, value, false)
	case "bandwidth":
		p.tuning.Bandwidth, err = rate(key, value, true)
	}
	return err
}

// depth reads a small whole number of at least 1.
func depth(key, value string) (*int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > math.MaxInt16 {
		return nil, invalid("parameter %s is %q, want a whole number from 1 to %d", key, value, math.MaxInt16)
	}
	return &n, nil
}

// rate reads a whole number of at least 0, with a unit if units are allowed.
func rate(key, value string, units bool) (*int64, error) {
	number, factor := value, int64(1)
	if units {
		number, factor = unit(value)
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/factor {
		return nil, invalid("parameter %s is %q, want a whole number of at least 0 (0: no limit)", key, value)
	}
	n *= factor
	return &n, nil
}

// unit takes a number and its unit apart, written as Kubernetes writes quantities.
func unit(value string) (number string, factor int64) {
	for _, u := range []struct {
		suffix string
		factor int64
	}{{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}} {
		if n, ok := strings.CutSuffix(value, u.suffix); ok {
			return n, u.factor
		}
	}
	return value, 1
}

// sorted is the keys of m in order, so that the same mistake gets the same answer.
func sorted(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
