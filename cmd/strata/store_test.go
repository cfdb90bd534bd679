package main

import (
	"testing"

	"github.com/spf13/cobra"
)

func TestChoice(t *testing.T) {
	cmd := &cobra.Command{Use: "store"}
	for got, want := range map[string]bool{"buffered": false, "stable": true} {
		if is, err := choice(cmd, "ack", got, "buffered", "stable"); is != want || err != nil {
			t.Errorf("%s: %v, %v", got, is, err)
		}
	}
	for _, got := range []string{"", "Stable", "direct"} {
		if is, err := choice(cmd, "ack", got, "buffered", "stable"); is || err == nil {
			t.Errorf("%q: %v, %v; want an error", got, is, err)
		}
	}
}
