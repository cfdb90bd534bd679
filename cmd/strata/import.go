package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/cmd/strata/internal/size"
	"github.com/strata-csi/strata/cmd/strata/internal/transfer"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

const (
	// firstSize is how large an image is made for input of unknown length, in bytes.
	firstSize = 64 << 20
	// undoPatience bounds taking a half-made image away.
	undoPatience = 30 * time.Second
)

// transferAnswer is what import and export print as JSON.
type transferAnswer struct {
	Image store.Info `json:"image"`
	transfer.Stats
}

func (c *cli) importCmd() *cobra.Command {
	var f newImageFlags
	var adopt string
	cmd := &cobra.Command{
		Use:   "import {SOURCE IMAGE | --adopt POOL/IMAGE [IMAGE]}",
		Short: "Make an image from a file, a block device, '-' or an NBD address, or adopt one of RBD",
		Long: "Make an image from a raw file, a block device, standard input ('-') or an NBD address.\n" +
			"Holes and zeros take no space. A size that is not a multiple of 4096 is rounded up.\n" +
			"An import that fails leaves no image behind; one that is killed leaves an image that\n" +
			"strata ls shows as importing.\n\n" +
			"With --adopt, a store on a Ceph pool takes over an RBD image of that pool where it lies,\n" +
			"whoever made it, with its snapshots and its lineage and without copying. The image keeps\n" +
			"its name in the cluster, and nothing else may use it from then on. Images that it was\n" +
			"cloned from stay whose they are.",
		Example: "  strata import disk.raw data\n  zstd -dc disk.raw.zst | strata import - data\n  strata import nbd://peer/disk data\n" +
			"  strata import --adopt kubernetes/csi-vol-0a1b data",
		Args: func(cmd *cobra.Command, got []string) error {
			if cmd.Flags().Changed("adopt") {
				return args(0, 1, "at most an IMAGE beside --adopt")(cmd, got)
			}
			return args(2, 2, "a SOURCE and an IMAGE")(cmd, got)
		},
		ValidArgsFunction: completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.validate(cmd); err != nil {
				return err
			}
			if cmd.Flags().Changed("adopt") {
				return c.adopt(cmd.Context(), store.Adoption{Source: adopt, Name: first(args), BlockSize: f.blockSize, Policy: f.policy})
			}
			answer, err := c.importImage(cmd.Context(), args[0], store.Spec{Name: args[1], BlockSize: f.blockSize, Policy: f.policy})
			if err != nil {
				return interrupted(fmt.Errorf("import %s as %s: %w", args[0], args[1], err),
					"nothing half-made was left behind; repeat the command to start over")
			}
			return c.quiet(answer)
		},
	}
	cmd.Flags().StringVar(&adopt, "adopt", "", "RBD image to take over, as [POOL/[NAMESPACE/]]IMAGE")
	f.blockSizeFlag(cmd)
	cmd.Flag("block-size").Usage = "logical block size offered to clients: 512 or 4096 (default 4096; with --adopt 512)"
	f.policyFlags(cmd)
	return cmd
}

// completeFile offers files for the first argument only.
func completeFile(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// input is a source of an import. Either r is set, or src and bytes.
type input struct {
	src   transfer.Source
	bytes int64
	r     io.Reader
	close func() error
}

func (c *cli) openInput(ctx context.Context, name string) (input, error) {
	switch {
	case name == "-":
		return input{r: transfer.Interruptible(ctx, c.in), close: func() error { return nil }}, nil
	case transfer.IsURI(name):
		e, err := transfer.DialExport(ctx, name, c.tls)
		if err != nil {
			return input{}, err
		}
		return input{src: e, bytes: e.Size(), close: e.Close}, nil
	}
	file, err := transfer.OpenSource(name)
	if err == nil {
		return input{src: file, bytes: file.Size(), close: file.Close}, nil
	}
	if !errors.Is(err, transfer.ErrStream) {
		return input{}, err
	}
	stream, err := os.Open(name)
	if err != nil {
		return input{}, err
	}
	return input{r: transfer.Interruptible(ctx, stream), close: stream.Close}, nil
}

func (c *cli) importImage(ctx context.Context, from string, spec store.Spec) (transferAnswer, error) {
	// A bad name is found before a pipe is read or an address is called.
	if err := store.ValidateName(store.KindImage, spec.Name); err != nil {
		return transferAnswer{}, err
	}
	s, err := c.dial()
	if err != nil {
		return transferAnswer{}, err
	}
	in, err := c.openInput(ctx, from)
	if err != nil {
		return transferAnswer{}, err
	}
	defer func() { _ = in.close() }() // it was only read
	spec.Size = firstSize
	if in.src != nil {
		if in.bytes == 0 {
			return transferAnswer{}, errEmpty()
		}
		spec.Size = size.RoundUp(in.bytes)
	}
	answer, err := c.importInto(ctx, s, spec, in)
	if err != nil {
		return transferAnswer{}, err
	}
	if rest := answer.Image.Size - answer.Bytes; rest > 0 {
		c.note("%d bytes were rounded up to %d; the last %d read as zero", answer.Bytes, answer.Image.Size, rest)
	}
	return answer, nil
}

// importInto makes the image and fills it. It is marked until it is whole.
func (c *cli) importInto(ctx context.Context, s *storeapi.Client, spec store.Spec, in input) (answer transferAnswer, err error) {
	if spec.Digest, err = beginImport(ctx, s, spec.Name); err != nil {
		return answer, err
	}
	image, err := s.Create(ctx, spec)
	if err == nil {
		if answer, err = c.fill(ctx, s, image, in); err != nil {
			err = errors.Join(err, undoImport(ctx, s, image))
		}
	}
	done, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoPatience)
	defer cancel()
	if errors.Is(err, store.ErrConflict) {
		err = c.adviseConflict(done, s, spec.Name, err)
	}
	return answer, errors.Join(err, endImport(done, s, spec.Digest, spec.Name))
}

// adviseConflict tells an image that a killed import has left from others.
func (c *cli) adviseConflict(ctx context.Context, s *storeapi.Client, name string, conflict error) error {
	there, err := s.Lookup(ctx, name)
	if err != nil {
		return conflict
	}
	open, err := c.unfinished(ctx, there)
	if err != nil || !open[there.Digest] {
		return conflict
	}
	return advise(conflict, "an earlier import of it has not ended; if it was killed, remove what is there with: strata rm %s", name)
}

func errEmpty() error {
	return advise(fmt.Errorf("the source is empty: %w", store.ErrInvalid), "make an empty image with: strata create --size SIZE NAME")
}

// undoImport removes a half-filled image, also when the import was interrupted.
func undoImport(ctx context.Context, s *storeapi.Client, image store.Info) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoPatience)
	defer cancel()
	if err := s.Remove(ctx, image.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
		return advise(fmt.Errorf("the unfinished image %s could not be removed: %w", image.Name, err), "remove it with: strata rm %s", image.Name)
	}
	return nil
}

// fill copies the input into a fresh image and gives the image its final size.
func (c *cli) fill(ctx context.Context, s *storeapi.Client, image store.Info, in input) (answer transferAnswer, err error) {
	dev, err := s.Open(ctx, image.ID)
	if err != nil {
		return transferAnswer{}, err
	}
	bar := c.progress("import "+image.Name, in.bytes)
	o := transfer.Options{Blank: true, Progress: bar.add}
	if in.src != nil {
		answer.Stats, err = transfer.Copy(ctx, transfer.Device{Device: dev}, in.src, in.bytes, o)
	} else {
		answer.Stats, err = transfer.FromStream(ctx, transfer.Device{Device: dev}, in.r, grower(ctx, s, image), o)
	}
	bar.done(err == nil)
	if err := errors.Join(err, dev.Close()); err != nil {
		return transferAnswer{}, err
	}
	if answer.Bytes == 0 {
		return transferAnswer{}, errEmpty()
	}
	answer.Image, err = s.Resize(ctx, image.ID, size.RoundUp(answer.Bytes))
	return answer, err
}

// grower doubles the image when input of unknown length goes on.
func grower(ctx context.Context, s *storeapi.Client, image store.Info) func(end int64) error {
	now := image.Size
	return func(end int64) error {
		if end <= now {
			return nil
		}
		if end > store.MaxSize {
			return fmt.Errorf("the input is longer than the largest image, %s: %w", size.Exact(store.MaxSize), store.ErrRange)
		}
		next := min(max(2*now, size.RoundUp(end)), store.MaxSize)
		if _, err := s.Resize(ctx, image.ID, next); err != nil {
			return err
		}
		now = next
		return nil
	}
}
