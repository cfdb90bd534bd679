package table

import (
	"strings"
	"testing"
)

func TestTableLinesUp(t *testing.T) {
	tab := New("NAME", ">SIZE", "STATE")
	tab.Row("a", "10 GiB", "ready")
	tab.Row("日本", "4 KiB")
	tab.Row("bad\x1b[2J\nname", "0 B", "x", "too many")
	var b strings.Builder
	if _, err := tab.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"NAME            SIZE  STATE",
		"a             10 GiB  ready",
		"日本           4 KiB",
		"bad\uFFFD[2J\uFFFDname     0 B  x",
		"",
	}, "\n")
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	if tab.Len() != 3 {
		t.Errorf("Len is %d, want 3", tab.Len())
	}
}
