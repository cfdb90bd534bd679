//go:build kernelnbd

package nbd

import (
	"flag"
	"os"
	"testing"
)

// TestMain leaves out what needs no guest, unless tests are named.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.run"); f.Value.String() == "" {
		if err := f.Value.Set("Kernel"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
