package main

import (
	"context"
	"io"
	"log/slog"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/strata-csi/strata/pkg/app"
)

// logging is how a process logs.
type logging struct {
	format    string
	verbosity int
}

func (l *logging) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&l.format, "log-format", "text", "log lines as text or json")
	f.IntVarP(&l.verbosity, "verbosity", "v", 0, "log level: 1 lifecycle, 2 refused requests, 4 every request")
	_ = cmd.RegisterFlagCompletionFunc("log-format", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

// context carries the logger. Libraries that log by klog's own functions get it too.
func (l *logging) context(cmd *cobra.Command, out io.Writer) (context.Context, error) {
	inJSON, err := choice(cmd, "log-format", l.format, "text", "json")
	if err != nil {
		return nil, err
	}
	log := textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(out), textlogger.Verbosity(l.verbosity)))
	if inJSON {
		// logr's level n is slog's level -n.
		log = logr.FromSlogHandler(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: slog.Level(-l.verbosity)}))
	}
	klog.SetLoggerWithOptions(log, klog.ContextualLogger(true))
	return klog.NewContext(cmd.Context(), log), nil
}

// webFlags are those of every process that tells of itself over HTTP.
func webFlags(f *pflag.FlagSet, w *app.Web) {
	f.StringVar(&w.Address, "http", "", "address for /metrics, /healthz and /readyz: HOST:PORT (default: none)")
	f.BoolVar(&w.Profile, "pprof", false, "serve /debug/pprof/ there too")
}
