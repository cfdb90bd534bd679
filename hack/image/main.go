// Command image builds the container image of strata without a container engine and
// without a registry.
//
// It takes the static binary, and from the packages of the Debian release that this
// machine follows just the programs which a node needs (contents.go), with the libraries,
// loaders and settings that those really use. What no program reaches is left out, so the
// image has no package manager, no interpreter but sh, and no set-user-id program. Which
// packages and versions the files are from is recorded in the image, as a label, as
// dpkg's own records, and as an SPDX list of parts.
//
// The result is one archive that is both an OCI image layout (ctr images import, skopeo,
// podman) and what docker load takes. The same input gives the same bytes: entries are
// sorted, times are fixed, layers are not compressed unless asked for. The layer with the
// programs only changes with their packages, so an update moves the layer of the binary.
//
// With -root it writes the files of both layers to a directory instead; the Dockerfile
// uses that, so that both ways lead to the same image.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	strata, licence   string
	name              string
	version, revision string
	created           time.Time
	arch              string
	out, root         string
	gzip              bool
	cache             string
	update            bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, log io.Writer) error {
	o, err := parse(args, log)
	if err != nil {
		return err
	}
	tools, parts, err := gather(ctx, o, log)
	if err != nil {
		return err
	}
	binary, err := strataLayer(o, parts)
	if err != nil {
		return err
	}
	if o.root != "" {
		return writeRoot(o.root, tools, binary)
	}
	made, err := writeArchive(o, parts, tools, binary)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "image   %s\ndigest  %s\narchive %s, %.1f MiB, %d packages\n",
		o.name, made.digest, o.out, float64(made.size)/(1<<20), len(parts))
	return err
}

// parse reads the flags.
func parse(args []string, log io.Writer) (options, error) {
	var o options
	var created string
	f := flag.NewFlagSet("image", flag.ContinueOnError)
	f.SetOutput(log)
	f.StringVar(&o.strata, "strata", "bin/strata", "static `binary` to put in")
	f.StringVar(&o.licence, "licence", "LICENSE", "`file` with the licence")
	f.StringVar(&o.name, "name", "strata", "`name[:tag]` of the image; the tag is the version if not given")
	f.StringVar(&o.version, "version", "unknown", "version, for the labels")
	f.StringVar(&o.revision, "revision", "", "commit, for the labels")
	f.StringVar(&created, "created", os.Getenv("SOURCE_DATE_EPOCH"), "when it was made, in `seconds` since 1970 (env SOURCE_DATE_EPOCH)")
	f.StringVar(&o.arch, "arch", runtime.GOARCH, "architecture, as Go calls it: amd64 or arm64")
	f.StringVar(&o.out, "out", "bin/strata-image.tar", "archive to `write`")
	f.StringVar(&o.root, "root", "", "write the files of the layers below this `directory` instead of an archive")
	f.BoolVar(&o.gzip, "gzip", false, "compress the layers")
	f.StringVar(&o.cache, "cache", "", "`directory` for packages (default: strata/image in the user's cache)")
	f.BoolVar(&o.update, "update", false, "look for newer packages now; else once a day")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if _, ok := machines[o.arch]; !ok {
		return o, fmt.Errorf("architecture %q is not known; amd64 and arm64 are", o.arch)
	}
	if created != "" {
		s, err := strconv.ParseInt(created, 10, 64)
		if err != nil {
			return o, fmt.Errorf("-created %q: want seconds since 1970", created)
		}
		o.created = time.Unix(s, 0).UTC()
	} else {
		o.created = time.Unix(0, 0).UTC()
	}
	o.name = reference(o.name, o.version)
	return o, nil
}

// defaultDomain and defaultPath are what container runtimes put before a name that has
// neither; they look images up under the whole name only.
const (
	defaultDomain = "docker.io"
	defaultPath   = "library"
)

// reference makes a name whole: domain/path:tag. A version may hold a '+', which a tag
// may not.
func reference(name, version string) string {
	if slash := strings.LastIndexByte(name, '/'); !strings.Contains(name[slash+1:], ":") {
		name += ":" + strings.ReplaceAll(version, "+", "_")
	}
	first, _, found := strings.Cut(name, "/")
	switch {
	case !found:
		return defaultDomain + "/" + defaultPath + "/" + name
	case !strings.ContainsAny(first, ".:") && first != "localhost":
		return defaultDomain + "/" + name
	}
	return name
}
