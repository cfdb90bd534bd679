// Command manifests writes the plain manifests that the chart renders.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/strata-csi/strata/test/chart"
)

func main() {
	dir := flag.String("chart", "../../charts/strata", "folder of the chart")
	out := flag.String("out", "../../deploy/kubernetes", "folder to write to")
	flag.Parse()
	if err := write(*dir, *out); err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		os.Exit(1)
	}
}

func write(dir, out string) error {
	files, err := chart.Manifests(dir)
	if err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(out, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
