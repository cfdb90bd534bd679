package nbd

import (
	"encoding/hex"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.NewReplacer(" ", "", "\n", "", "\t", "").Replace(s))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// header is the bytes of a request.
func header(flags, cmd uint16, cookie, off uint64, n uint32) []byte {
	b := make([]byte, requestSize)
	request{flags: flags, cmd: cmd, cookie: cookie, offset: off, length: n}.put(b)
	return b
}

func TestRequestBytes(t *testing.T) {
	want := "25609513 0003 0006 0102030405060708 0000000000001000 00000200"
	r := request{flags: 3, cmd: cmdWriteZeroes, cookie: 0x0102030405060708, offset: 4096, length: 512}
	b := make([]byte, requestSize)
	r.put(b)
	if hex.EncodeToString(b) != strings.ReplaceAll(want, " ", "") {
		t.Errorf("a request is %x, want %s", b, want)
	}
	back, ok := parseRequest(b)
	if !ok || back != r {
		t.Errorf("it is read back as %+v, %v", back, ok)
	}
	b[0]++
	if _, ok := parseRequest(b); ok {
		t.Error("bad magic is accepted")
	}
}

func TestReplyBytes(t *testing.T) {
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"simple": {appendSimple(nil, ENOSPC, 7), "67446698 0000001c 0000000000000007"},
		"chunk":  {appendChunk(nil, chunkFlagDone, chunkOffsetHole, 7, 12), "668e33ef 0001 0002 0000000000000007 0000000c"},
		"option": {appendOption(nil, optGo, []byte{9}), "49484156454f5054 00000007 00000001 09"},
		"reply":  {appendReply(nil, optGo, repErrUnknown, []byte{9}), "0003e889045565a9 00000007 80000006 00000001 09"},
	} {
		if hex.EncodeToString(c.got) != strings.ReplaceAll(c.want, " ", "") {
			t.Errorf("%s is %x, want %s", name, c.got, c.want)
		}
	}
}

func TestCursorStopsAtTheEnd(t *testing.T) {
	c := cursor{b: unhex(t, "00000002 6162 0005")}
	if s := c.str(); s != "ab" || c.bad {
		t.Errorf("a string is read as %q, bad %v", s, c.bad)
	}
	if v := c.u16(); v != 5 || c.bad {
		t.Errorf("a number is read as %d, bad %v", v, c.bad)
	}
	if v := c.u32(); v != 0 || !c.bad {
		t.Errorf("beyond the end: %d, bad %v", v, c.bad)
	}
	c = cursor{b: unhex(t, "ffffffff 61")}
	if s := c.str(); s != "" || !c.bad {
		t.Errorf("a string longer than the data: %q, bad %v", s, c.bad)
	}
}

func TestURI(t *testing.T) {
	for uri, want := range map[string]Target{
		"nbd://host/img":                                 {Network: "tcp", Address: "host:10809", Export: "img"},
		"nbd://host:99/":                                 {Network: "tcp", Address: "host:99", Export: ""},
		"nbd://[::1]:99/a@b":                             {Network: "tcp", Address: "[::1]:99", Export: "a@b"},
		"nbd+unix:///a%20b?socket=/run/x.sock":           {Network: "unix", Address: "/run/x.sock", Export: "a b"},
		"nbd+unix:///pub/1/2/3?socket=/a%20b/s%3Fx.sock": {Network: "unix", Address: "/a b/s?x.sock", Export: "pub/1/2/3"},
		"nbds://host/img":                                {Network: "tcp", Address: "host:10809", Export: "img", TLS: true},
		"nbds+unix:///a?socket=/run/x.sock":              {Network: "unix", Address: "/run/x.sock", Export: "a", TLS: true},
	} {
		got, err := ParseURI(uri)
		if err != nil || got != want {
			t.Errorf("%s is %+v, %v, want %+v", uri, got, err, want)
		}
		if again, err := ParseURI(got.String()); err != nil || again != want {
			t.Errorf("%s is written as %s, which is %+v, %v", uri, got, again, err)
		}
	}
	for _, uri := range []string{"", "host:1", "http://host/x", "nbd:///x", "nbd+unix:///x", "nbd+unix://x?socket=/s", "nbds:///x", "nbdx://host/x", "nbd://%zz/"} {
		if got, err := ParseURI(uri); err == nil {
			t.Errorf("%q is accepted as %+v", uri, got)
		}
	}
}
