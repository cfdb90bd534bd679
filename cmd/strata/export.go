package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/cmd/strata/internal/size"
	"github.com/strata-csi/strata/cmd/strata/internal/transfer"
	"github.com/strata-csi/strata/pkg/store"
)

func (c *cli) exportCmd() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "export IMAGE[@SNAPSHOT] TARGET",
		Short: "Copy an image or snapshot to a file, a block device, '-' or an NBD address",
		Long: "Copy an image or snapshot to a raw file, a block device, standard output ('-') or an\n" +
			"NBD address. Files are sparse, and appear under their name only when they are whole.\n" +
			"An image that a client writes to cannot be exported; its snapshots can.",
		Example:           "  strata export data@monday monday.raw\n  strata export data@monday - | zstd > monday.raw.zst",
		Args:              args(2, 2, "an IMAGE or IMAGE@SNAPSHOT, and a TARGET"),
		ValidArgsFunction: c.completeExport,
		RunE: func(cmd *cobra.Command, args []string) error {
			answer, err := c.exportImage(cmd.Context(), args[0], args[1], force)
			if err != nil {
				return interrupted(fmt.Errorf("export %s to %s: %w", args[0], args[1], err),
					"a file appears when it is whole, so there is none; a device, an address or a pipe has a part of the image")
			}
			if args[1] == "-" {
				return nil // standard output holds the image
			}
			return c.quiet(answer)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace a file that exists, or overwrite a block device")
	return cmd
}

func (c *cli) completeExport(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 1 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return c.completeRefs(1, anyKind)(cmd, args, typed)
}

func (c *cli) exportImage(ctx context.Context, ref, to string, force bool) (answer transferAnswer, err error) {
	if to == "-" && c.outIsTerminal {
		return answer, advise(fmt.Errorf("standard output is a terminal: %w", store.ErrInvalid), "redirect it to a file or a pipe")
	}
	if answer.Image, err = c.object(ctx, ref); err != nil {
		return answer, err
	}
	out, err := c.openOutput(ctx, to, answer.Image.Size, force)
	if err != nil {
		return answer, err
	}
	answer.Stats, err = c.copyOut(ctx, out, answer.Image)
	if err == nil {
		err = out.commit()
	}
	if err != nil {
		return answer, errors.Join(err, out.abort())
	}
	return answer, nil
}

func (c *cli) copyOut(ctx context.Context, out output, image store.Info) (stats transfer.Stats, err error) {
	dev, err := c.client.Open(ctx, image.ID)
	if err != nil {
		return stats, err
	}
	bar := c.progress("export "+image.Ref(), image.Size)
	o := transfer.Options{Blank: out.blank, Progress: bar.add}
	if out.sink != nil {
		stats, err = transfer.Copy(ctx, out.sink, transfer.Device{Device: dev}, image.Size, o)
	} else {
		stats, err = transfer.ToStream(ctx, out.w, transfer.Device{Device: dev}, image.Size, o)
	}
	bar.done(err == nil)
	return stats, errors.Join(err, dev.Close())
}

// output is the target of an export. Either w is set, or sink.
type output struct {
	sink  transfer.Sink
	blank bool
	w     io.Writer
	// commit makes the target whole; abort gives it up, also after a failed commit.
	commit, abort func() error
}

func (c *cli) openOutput(ctx context.Context, to string, bytes int64, force bool) (output, error) {
	if to == "-" {
		return output{w: c.out, commit: nothing, abort: nothing}, nil
	}
	if transfer.IsURI(to) {
		e, err := transfer.DialExport(ctx, to, c.tls)
		if err != nil {
			return output{}, err
		}
		if err := fits(e.Size(), bytes); err != nil {
			return output{}, errors.Join(err, e.Close())
		}
		return output{sink: e, commit: e.Close, abort: closed(e)}, nil
	}
	st, err := os.Stat(to)
	switch {
	case err != nil || st.Mode().IsRegular():
		return fileOutput(to, bytes, force)
	case st.IsDir():
		return output{}, &os.PathError{Op: "write", Path: to, Err: syscall.EISDIR}
	case st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0:
		return deviceOutput(to, bytes, force)
	}
	f, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		return output{}, err
	}
	return output{w: f, commit: f.Close, abort: closed(f)}, nil
}

// closed closes c for an error that is reported already.
func closed(c io.Closer) func() error {
	return func() error {
		_ = c.Close()
		return nil
	}
}

func nothing() error { return nil }

func fileOutput(to string, bytes int64, force bool) (output, error) {
	t, err := transfer.CreateTarget(to, bytes, force)
	if err != nil {
		return output{}, err
	}
	return output{sink: t, blank: true, commit: t.Commit, abort: t.Abort}, nil
}

func deviceOutput(to string, bytes int64, force bool) (output, error) {
	if !force {
		return output{}, advise(fmt.Errorf("it is a block device, whose content would be lost: %w", os.ErrExist), "if that is meant, say --force")
	}
	f, err := transfer.OpenDevice(to)
	if err != nil {
		return output{}, err
	}
	if err := fits(f.Size(), bytes); err != nil {
		return output{}, errors.Join(err, f.Close())
	}
	return output{sink: f, commit: f.Close, abort: closed(f)}, nil
}

// fits refuses a target that is too small. What a larger one holds beyond the image
// stays as it is.
func fits(target, image int64) error {
	if target < image {
		return fmt.Errorf("the target has %s and the image needs %s: %w", size.Human(target), size.Human(image), store.ErrRange)
	}
	return nil
}
