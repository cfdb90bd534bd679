package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/pkg/pki"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

// defaultStore is where the tool looks for a store that was not named.
const defaultStore = "/run/strata/api.sock"

// storeEnv names the environment variable that names the store.
const storeEnv = "STRATA_STORE"

// tlsEnv begins the names of the environment variables that name certificates.
const tlsEnv = "STRATA_TLS_"

// streams is what a run of the tool sees of the world.
type streams struct {
	in                           io.Reader
	out, err                     io.Writer
	env                          func(string) string
	errIsTerminal, outIsTerminal bool
}

// cli is one run of the tool: its streams, its global flags, its connection.
type cli struct {
	streams
	addr       string
	format     format
	noProgress bool
	tls        pki.Files
	insecure   bool
	client     *storeapi.Client
}

// run executes the arguments and returns the exit code: 0, 1 for a failure, 2 for
// arguments that cannot be understood.
func run(ctx context.Context, args []string, s streams) int {
	ctx, stop := untilSignal(ctx)
	defer stop()
	c := &cli{streams: s, format: "table"}
	root := c.root()
	root.SetArgs(args)
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	err := root.ExecuteContext(ctx)
	return c.report(errors.Join(err, c.close()))
}

// untilSignal ends the context at the first SIGINT or SIGTERM, so that what runs can
// tidy up. From then on, the next one ends the process.
func untilSignal(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	got := make(chan os.Signal, 1)
	signal.Notify(got, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-got:
		case <-ctx.Done():
		}
		signal.Stop(got) // before anybody sees that the end has begun and signals again
		cancel()
	}()
	return ctx, func() {
		cancel()
		<-done
	}
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "strata",
		Short: "Block images with snapshots, clones and automatic flatten",
		Long: "strata serves block images over NBD and manages them. Images, snapshots and clones\n" +
			"have independent lives: delete them in any order. An image is named by its name or\n" +
			"id, a snapshot as image@snapshot or by its id. Sizes are powers of 1024: 10G, 1.5T.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version,
		Args:          subcommandOnly,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{cmd: cmd.CommandPath(), err: err}
	})
	addr := c.env(storeEnv)
	if addr == "" {
		addr = defaultStore
	}
	f := root.PersistentFlags()
	f.StringVar(&c.addr, "store", addr, "store to talk to: its socket, its data directory or host:port (env "+storeEnv+")")
	f.StringVar(&c.tls.CA, "tls-ca", c.env(tlsEnv+"CA"), "authority whose certificates are believed on TCP, a PEM file (env "+tlsEnv+"CA)")
	f.StringVar(&c.tls.Cert, "tls-cert", c.env(tlsEnv+"CERT"), "certificate to show on TCP, a PEM file (env "+tlsEnv+"CERT)")
	f.StringVar(&c.tls.Key, "tls-key", c.env(tlsEnv+"KEY"), "key of that certificate, a PEM file (env "+tlsEnv+"KEY)")
	f.BoolVar(&c.insecure, "insecure", false, "use TCP between machines in the clear")
	f.Var(&c.format, "format", "output format: table or json")
	f.BoolVar(&c.noProgress, "no-progress", false, "draw no progress bars")
	_ = root.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	root.SetHelpCommandGroupID("tool")
	root.SetCompletionCommandGroupID("tool")
	for _, group := range c.verbs() {
		root.AddGroup(&cobra.Group{ID: group.id, Title: group.title})
		for _, cmd := range group.verbs {
			cmd.GroupID = group.id
			root.AddCommand(cmd)
		}
	}
	return root
}

// verbGroup is a paragraph of the help text.
type verbGroup struct {
	id, title string
	verbs     []*cobra.Command
}

func (c *cli) verbs() []verbGroup {
	return []verbGroup{
		{"image", "Images:", []*cobra.Command{
			c.createCmd(), c.lsCmd(), c.infoCmd(), c.resizeCmd(), c.limitCmd(), c.rmCmd(), c.importCmd(), c.exportCmd(), c.uriCmd(), c.handleCmd(),
		}},
		{"lineage", "Snapshots and clones:", []*cobra.Command{
			c.snapCmd(), c.cloneCmd(), c.childrenCmd(), c.treeCmd(), c.flattenCmd(), c.policyCmd(), c.diffCmd(), c.duCmd(),
		}},
		{"store", "Stores:", []*cobra.Command{
			c.storeCmd(), c.upgradeFormatCmd(), c.statusCmd(), c.checkCmd(), c.scrubCmd(), c.jobsCmd(), c.publishCmd(), c.unpublishCmd(), c.publicationsCmd(), c.certsCmd(),
		}},
		{"csi", "Kubernetes and kernel devices:", []*cobra.Command{
			c.controllerCmd(), c.nodeCmd(), c.allCmd(), c.poolCmd(), c.mapCmd(), c.unmapCmd(), c.mappedCmd(),
		}},
		{"tool", "This tool:", []*cobra.Command{c.doctorCmd(), c.versionCmd()}},
	}
}

// dial returns the client of the store, connected on first use.
func (c *cli) dial() (*storeapi.Client, error) {
	if c.client != nil {
		return c.client, nil
	}
	client, err := storeapi.Dial(c.addr, storeapi.DialOptions{TLS: c.tls, Insecure: c.insecure})
	if err != nil {
		return nil, adviseDial(err)
	}
	c.client = client
	return client, nil
}

func (c *cli) close() error {
	if c.client == nil {
		return nil
	}
	return c.client.Close()
}

// format is the --format flag; it implements pflag.Value.
type format string

func (f *format) String() string { return string(*f) }

func (f *format) Set(s string) error {
	if s != "table" && s != "json" {
		return errors.New("want table or json")
	}
	*f = format(s)
	return nil
}

func (*format) Type() string { return "format" }

// wroteTo is what tables and other printers offer.
type wroteTo interface {
	WriteTo(w io.Writer) (int64, error)
}

// show prints an answer: v as JSON, or what text makes of it.
func (c *cli) show(v any, text func() error) error {
	if c.format != "json" {
		return text()
	}
	e := json.NewEncoder(c.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table prints an answer: v as JSON, or as the table that t fills.
func (c *cli) table(v any, t wroteTo) error {
	return c.show(v, func() error {
		_, err := t.WriteTo(c.out)
		return err
	})
}

// quiet prints an answer only as JSON: success needs no words.
func (c *cli) quiet(v any) error {
	return c.show(v, func() error { return nil })
}

// note tells the user what happened beside the answer.
func (c *cli) note(text string, args ...any) {
	fmt.Fprintf(c.err, "note: "+text+"\n", args...)
}

// list makes JSON print no objects as [] and not as null.
func list[T any](all []T) []T {
	if all == nil {
		return []T{}
	}
	return all
}

// object finds an image or snapshot by reference or id.
func (c *cli) object(ctx context.Context, ref string) (store.Info, error) {
	s, err := c.dial()
	if err != nil {
		return store.Info{}, err
	}
	if store.IsID(ref) {
		return s.Stat(ctx, store.ID(ref))
	}
	return s.Lookup(ctx, ref)
}

// image finds an image and refuses a snapshot.
func (c *cli) image(ctx context.Context, ref string) (store.Info, error) {
	return c.ofKind(ctx, ref, store.KindImage)
}

// snapshot finds a snapshot and refuses an image.
func (c *cli) snapshot(ctx context.Context, ref string) (store.Info, error) {
	return c.ofKind(ctx, ref, store.KindSnapshot)
}

func (c *cli) ofKind(ctx context.Context, ref string, kind store.Kind) (store.Info, error) {
	i, err := c.object(ctx, ref)
	if err != nil || i.Kind == kind {
		return i, err
	}
	if kind == store.KindSnapshot {
		err = fmt.Errorf("%s is an image, and a snapshot is wanted: %w", i.Ref(), store.ErrInvalid)
		return store.Info{}, advise(err, "write %s@SNAPSHOT; see which it has with: strata snap ls %s", i.Name, i.Name)
	}
	err = fmt.Errorf("%s is a snapshot, and an image is wanted: %w", i.Ref(), store.ErrInvalid)
	return store.Info{}, advise(err, "name the image alone, %s, or make one with: strata clone %s NAME", i.ImageName, i.Ref())
}
