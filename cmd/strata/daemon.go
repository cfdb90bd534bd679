package main

import (
	"github.com/spf13/pflag"

	"github.com/strata-csi/strata/pkg/app"
)

// webFlags are those of every process that tells of itself over HTTP.
func webFlags(f *pflag.FlagSet, w *app.Web) {
	f.StringVar(&w.Address, "http", "", "address for /metrics, /healthz and /readyz: HOST:PORT (default: none)")
	f.BoolVar(&w.Profile, "pprof", false, "serve /debug/pprof/ there too")
}
