// Command strata serves images with snapshots, clones and automatic flatten, and is
// the operator's tool for them. See strata help.
package main

import (
	"context"
	"os"

	"golang.org/x/term"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(run(context.Background(), os.Args[1:], streams{
		in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.Getenv,
		errIsTerminal: term.IsTerminal(int(os.Stderr.Fd())),
		outIsTerminal: term.IsTerminal(int(os.Stdout.Fd())),
	}))
}
