package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// option asks and returns the kinds of the replies and the data of the last.
func (w *wire) option(opt uint32, data []byte) (kinds []uint32, last []byte) {
	w.t.Helper()
	w.send(appendOption(nil, opt, data))
	for {
		c := cursor{b: w.skip(replySize)}
		if c.u64() != magicReply || c.u32() != opt {
			w.t.Fatal("a malformed reply")
		}
		kind := c.u32()
		kinds, last = append(kinds, kind), w.skip(int(c.u32()))
		if kind == repAck || kind&repErr != 0 {
			return kinds, last
		}
	}
}

func goData(name string, asked ...uint16) []byte {
	d := appendString(nil, name)
	d = binary.BigEndian.AppendUint16(d, uint16(len(asked)))
	for _, a := range asked {
		d = binary.BigEndian.AppendUint16(d, a)
	}
	return d
}

func metaData(name string, queries ...string) []byte {
	d := binary.BigEndian.AppendUint32(appendString(nil, name), uint32(len(queries)))
	for _, q := range queries {
		d = appendString(d, q)
	}
	return d
}

type optionCase struct {
	name string
	opt  uint32
	data []byte
	want []uint32 // types of the replies
}

func optionCases(t *testing.T) []optionCase {
	long := bytes.Repeat([]byte("x"), maxOptionData+1)
	twice := append(goData("disk"), 0)
	return []optionCase{
		{"info", optInfo, goData("disk"), []uint32{repInfo, repInfo, repAck}},
		{"info with name and description", optInfo, goData("disk", infoName, infoDescription, 99), []uint32{repInfo, repInfo, repInfo, repInfo, repAck}},
		{"info of an unknown export", optInfo, goData("nope"), []uint32{repErrUnknown}},
		{"info of the default export", optInfo, goData(""), []uint32{repErrUnknown}},
		{"info against policy", optInfo, goData("forbidden"), []uint32{repErrPolicy}},
		{"go to an unknown export", optGo, goData("nope"), []uint32{repErrUnknown}},
		{"go without data", optGo, nil, []uint32{repErrInvalid}},
		{"go with data left over", optGo, twice, []uint32{repErrInvalid}},
		{"go with a name longer than the data", optGo, unhex(t, "000000ff 61 0000"), []uint32{repErrInvalid}},
		{"go with a huge name length", optGo, unhex(t, "ffffffff 61 0000"), []uint32{repErrInvalid}},
		{"go with fewer requests than announced", optGo, unhex(t, "00000000 0009 0000"), []uint32{repErrInvalid}},
		{"go with a name that is not UTF-8", optGo, goData("\xff"), []uint32{repErrInvalid}},
		{"go with a zero in the name", optGo, goData("a\x00b"), []uint32{repErrInvalid}},
		{"go too long", optGo, long, []uint32{repErrTooBig}},
		{"list", optList, nil, []uint32{repServer, repAck}},
		{"list with data", optList, []byte{1}, []uint32{repErrInvalid}},
		{"list with long data", optList, long, []uint32{repErrInvalid}},
		{"structured", optStructuredReply, nil, []uint32{repAck}},
		{"structured with data", optStructuredReply, []byte{1}, []uint32{repErrInvalid}},
		{"starttls", optStartTLS, nil, []uint32{repErrUnsup}},
		{"starttls with data", optStartTLS, []byte{1}, []uint32{repErrInvalid}},
		{"unknown", 4711, []byte("data"), []uint32{repErrUnsup}},
		{"unknown and long", 4711, long, []uint32{repErrUnsup}},
		{"extended headers", 11, nil, []uint32{repErrUnsup}},
		{"list contexts, no queries", optListMetaContext, metaData("disk"), []uint32{4, 4, 4, 4, repAck}},
		{"list contexts, base:", optListMetaContext, metaData("disk", "base:"), []uint32{4, repAck}},
		{"list contexts, qemu:", optListMetaContext, metaData("disk", "qemu:"), []uint32{4, 4, 4, repAck}},
		{"list contexts, bitmaps", optListMetaContext, metaData("disk", "qemu:dirty-bitmap:", "qemu:"), []uint32{4, 4, 4, repAck}},
		{"list contexts, unknown namespace", optListMetaContext, metaData("disk", "x-y:z"), []uint32{repAck}},
		{"list contexts of no export", optListMetaContext, metaData("nope"), []uint32{repErrUnknown}},
		{"set contexts", optSetMetaContext, metaData("disk", "base:allocation", "qemu:dirty-bitmap:two", "base:nope"), []uint32{4, 4, repAck}},
		{"set contexts, wildcards", optSetMetaContext, metaData("disk", "base:", "qemu:"), []uint32{repAck}},
		{"set contexts, none", optSetMetaContext, metaData("disk"), []uint32{repAck}},
		{"set contexts, no namespace", optSetMetaContext, metaData("disk", "base"), []uint32{repErrInvalid}},
		{"set contexts, short", optSetMetaContext, metaData("disk", "base:allocation")[:20], []uint32{repErrInvalid}},
		{"set contexts, many queries", optSetMetaContext, metaData("disk", slices.Repeat([]string{"a:b"}, 200)...), []uint32{repErrTooBig}},
		{"set contexts, 2^32-1 queries", optSetMetaContext, unhex(t, "00000000 ffffffff"), []uint32{repErrInvalid}},
	}
}

// Every option is answered as the protocol says and the framing stays intact.
func TestOptions(t *testing.T) {
	for _, c := range optionCases(t) {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 1<<20, Config{})
			w := r.raw()
			w.greet()
			w.option(optStructuredReply, nil)
			if kinds, last := w.option(c.opt, c.data); fmt.Sprint(kinds) != fmt.Sprint(c.want) {
				t.Errorf("answered with %#x (%q), want %#x", kinds, last, c.want)
			}
			if kinds, _ := w.option(optGo, goData("disk")); kinds[len(kinds)-1] != repAck {
				t.Error("afterwards GO fails")
			}
			w.send(header(0, cmdFlush, 1, 0, 0))
			w.expect("67446698 00000000 0000000000000001")
		})
	}
}

func TestGoBytes(t *testing.T) {
	r := newRig(t, 1<<20, Config{})
	r.d.info.MinBlock = 512
	w := r.raw()
	w.greet()
	w.send(appendOption(nil, optGo, goData("disk", infoBlockSize)))
	w.expect(`0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 0d6d
		0003e889045565a9 00000007 00000003 0000000e 0003 00000200 00001000 02000000
		0003e889045565a9 00000007 00000001 00000000`)
}

func TestExportNameBytes(t *testing.T) {
	r := newRig(t, 1<<20, Config{})
	r.d.info.ReadOnly, r.d.info.Rotational, r.d.info.MultiConn = true, true, false
	for _, flags := range []byte{0, 1, 3} {
		w := r.raw()
		w.expect("4e42444d41474943 49484156454f5054 0003")
		w.send([]byte{0, 0, 0, flags})
		w.send(appendOption(nil, optExportName, []byte("disk")))
		w.expect("0000000000100000 041f")
		if flags&flagNoZeroes == 0 {
			w.skip(124)
		}
		w.send(header(0, cmdFlush, 1, 0, 0))
		w.expect("67446698 00000000 0000000000000001")
	}
}

// These end the connection, because the protocol has no answer or the framing is lost.
func TestHandshakeEnds(t *testing.T) {
	r := newRig(t, 1<<20, Config{HandshakeTimeout: 10 * time.Second})
	head := func(opt, n uint32) []byte { return appendOption(nil, opt, make([]byte, n))[:optionSize] }
	for name, bytes := range map[string][]byte{
		"unknown client flags":           unhex(t, "00000007"),
		"bad option magic":               append(unhex(t, "00000003"), make([]byte, 16)...),
		"unknown export by name":         append(unhex(t, "00000003"), appendOption(nil, optExportName, []byte("nope"))...),
		"malformed export name":          append(unhex(t, "00000003"), appendOption(nil, optExportName, []byte("\xff"))...),
		"option of more than a mebibyte": append(unhex(t, "00000003"), head(99, maxOptionDrain+1)...),
		"second option without fixed":    append(unhex(t, "00000002"), appendOption(nil, 4711, nil)...),
	} {
		t.Run(name, func(t *testing.T) {
			w := r.raw()
			w.t = t
			w.skip(18)
			w.send(bytes)
			if name == "second option without fixed" {
				w.skip(replySize + len("unknown option"))
			}
			w.expectEnd()
		})
	}
}

func TestAbortIsAcknowledged(t *testing.T) {
	r := newRig(t, 1<<20, Config{})
	w := r.raw()
	w.greet()
	w.send(appendOption(nil, optAbort, []byte("ignored")))
	w.expect("0003e889045565a9 00000002 00000001 00000000")
	w.expectEnd()
}

func TestListFollowsPolicy(t *testing.T) {
	r := newRig(t, 1<<20, Config{})
	r.b.noList = true
	w := r.raw()
	w.greet()
	if kinds, text := w.option(optList, nil); kinds[0] != repErrPolicy || string(text) != "no listing here" {
		t.Errorf("answered with %#x %q", kinds, text)
	}
}

func TestOptionsAreCounted(t *testing.T) {
	r := newRig(t, 1<<20, Config{})
	w := r.raw()
	w.greet()
	for range maxOptions {
		w.option(4711, nil)
	}
	w.expectEnd()
}

func TestErrorsOfTheBackendAreNotShown(t *testing.T) {
	r := newRig(t, 1<<20, Config{})
	w := r.raw()
	w.greet()
	kinds, text := w.option(optGo, goData("broken"))
	if kinds[0] != repErrUnknown || bytes.Contains(text, []byte("secret")) {
		t.Errorf("answered with %#x %q", kinds, text)
	}
	_, err := Dial(context.Background(), Target{Network: "unix", Address: r.path, Export: "forbidden"}.String())
	var refusal *Refusal
	if !errors.As(err, &refusal) || refusal.Reason != Policy || refusal.Message != "not for you" {
		t.Errorf("our client reports %v", err)
	}
}

// Contexts belong to the export they were selected for.
func TestContextsOfAnotherExport(t *testing.T) {
	r := newRig(t, 1<<20, Config{})
	r.b.add("other", newDisk(1<<20))
	w := r.raw()
	w.greet()
	w.option(optStructuredReply, nil)
	w.option(optSetMetaContext, metaData("other", ContextAllocation))
	w.option(optGo, goData("disk"))
	w.send(header(0, cmdBlockStatus, 5, 0, 4096))
	got := w.skip(chunkSize)
	if kind := binary.BigEndian.Uint16(got[6:]); kind != chunkError {
		t.Errorf("block status is answered with chunk type %d", kind)
	}
}

func TestContextsNeedStructuredReplies(t *testing.T) {
	r := newRig(t, 1<<20, Config{})
	w := r.raw()
	w.greet()
	for _, opt := range []uint32{optSetMetaContext, optListMetaContext} {
		if kinds, _ := w.option(opt, metaData("disk", ContextAllocation)); kinds[0] != repErrInvalid {
			t.Errorf("option %d is answered with %#x", opt, kinds)
		}
	}
}
