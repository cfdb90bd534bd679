package size

import "testing"

func TestRate(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "1": 1, "10M": 10 << 20, "1.5K/s": 1536, "2GiB": 2 << 30} {
		var r Rate
		if err := r.Set(s); err != nil || r.Bytes != want {
			t.Errorf("%q is %d, %v, want %d", s, r.Bytes, err, want)
		}
	}
	for _, s := range []string{"", "-1", "M", "10MB", "0.3", "10/s/s", "9999999P", "1e9"} {
		r := Rate{Bytes: 7}
		if err := r.Set(s); err == nil || r.Bytes != 7 {
			t.Errorf("%q is %d, %v", s, r.Bytes, err)
		}
	}
}
