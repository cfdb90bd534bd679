package interop

import (
	"strings"
	"testing"
)

func TestLibnbdStrictModeOff(t *testing.T) {
	l := needLibnbd(t)
	s := start(t)
	s.strata("create", "--size", "64M", "img")
	qemuIO(need(t, "qemu-io"), s.uri("img"), "write -P 0xab 0 1M")
	s.strata("snap", "create", "img@snap")

	for network, uri := range map[string]func(string) string{"unix": s.uri, "tcp": s.tcpURI} {
		out, err := l.try("testdata/strictless.py", uri("img"), uri("img@snap"))
		t.Log(out)
		if err != nil {
			t.Errorf("strictless.py: %v", err)
		}
		s.alive()
		l.result("%d misuses answered as the protocol says over %s", strings.Count(out, "ok  "), network)
	}
}
