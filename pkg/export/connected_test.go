package export

import (
	"testing"

	"github.com/strata-csi/strata/pkg/store"
)

// Publications tell which of them have a connection, for nodes that cannot see their
// own any more.
func TestConnected(t *testing.T) {
	r := newRig(t, Config{})
	p := r.publish("n1", store.AccessWrite)
	connected := func() bool {
		t.Helper()
		pubs, err := r.reg.Publications(r.patience, r.img.ID)
		if err != nil || len(pubs) != 1 || pubs[0].Token != p.Token {
			t.Fatalf("publications are %+v, %v", pubs, err)
		}
		return pubs[0].Connected
	}
	if connected() {
		t.Error("said to be connected before it was")
	}
	c := r.dial(Name(p, 1))
	if !connected() {
		t.Error("not said to be connected")
	}
	newer := r.dial(Name(p, 2))
	if !connected() {
		t.Error("not said to be connected under a new generation")
	}
	_ = c.Close()
	if !connected() {
		t.Error("the end of the old connection is taken for that of the new one")
	}
	_ = newer.Close()
	r.until(func() bool { return !connected() })
}
