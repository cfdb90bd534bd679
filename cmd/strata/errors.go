package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/pkg/pki"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

// usageError is a command line that cannot be understood.
type usageError struct {
	cmd string
	err error
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(cmd *cobra.Command, text string, args ...any) error {
	return &usageError{cmd: cmd.CommandPath(), err: fmt.Errorf(text, args...)}
}

// args accepts from least to most arguments; most < 0 means any number. want names
// them for the error.
func args(least, most int, want string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, got []string) error {
		switch {
		case len(got) >= least && (most < 0 || len(got) <= most):
			return nil
		case least == 0 && most == 0:
			return usagef(cmd, "%s takes no arguments, got %q", cmd.CommandPath(), got)
		}
		return usagef(cmd, "%s wants %s, got %d arguments", cmd.CommandPath(), want, len(got))
	}
}

// subcommandOnly is for commands that only hold others.
func subcommandOnly(cmd *cobra.Command, got []string) error {
	if len(got) == 0 {
		return nil
	}
	text := fmt.Sprintf("%s has no verb %q", cmd.CommandPath(), got[0])
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(got[0]); len(near) > 0 {
		text += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return usagef(cmd, "%s", text)
}

// hintedError is an error that knows better than the table what to do about it.
type hintedError struct {
	error
	hint string
}

func (e *hintedError) Unwrap() error { return e.error }

// advise adds what to do to an error; nil stays nil.
func advise(err error, text string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hintedError{error: err, hint: fmt.Sprintf(text, args...)}
}

// interrupted adds to the error of a command that was interrupted what is to be known
// then, unless something in it knows better.
func interrupted(err error, text string) error {
	var hinted *hintedError
	if !errors.Is(err, context.Canceled) || errors.As(err, &hinted) {
		return err
	}
	return advise(err, "%s", text)
}

// goesOn is for commands that only watch a job.
const goesOn = "it goes on in the background; see how far it is with: strata jobs ls, and end it with: strata jobs cancel"

// hint is what to do about an error.
type hint struct {
	is   error
	text string
}

// hints has a row for every sentinel of the store; the first that matches is shown.
func hints() []hint {
	return []hint{
		{fs.ErrExist, "choose another file, or replace it with --force"},
		{store.ErrUnavailable, "start a store with: strata store --data DIR; name another with --store or " + storeEnv},
		{store.ErrClosed, "the store is stopping; try again when it is back"},
		{store.ErrBusy, "a flatten must finish first; watch it with: strata jobs ls, then try again"},
		{store.ErrNoSpace, "see what takes space with: strata du; remove images or snapshots, or give the store more disk"},
		{store.ErrCorrupt, "find out what is damaged with: strata check --deep; other images are not affected"},
		{store.ErrFenced, "the right to this image was withdrawn; publish it again"},
		{store.ErrInUse, "see who holds it with: strata publications; stop that client or unpublish, or work on a snapshot or clone"},
		{store.ErrReadOnly, "clone it to get a writable image: strata clone SOURCE NAME"},
		{store.ErrConflict, "choose another name, or remove what has it with: strata rm"},
		{store.ErrNotFound, "see what exists with: strata ls -l"},
		{store.ErrRange, "sizes are multiples of 4096 from 4096 to 1P; a clone is at least as large as its parent"},
		{store.ErrInvalid, "names have no '/', '\\', '@' or control characters and up to 255 bytes; sizes look like 10G"},
		{store.ErrUnsupported, "this store cannot do that; see its backend and version with: strata status"},
		{storeapi.ErrDenied, "use the certificate of an operator; a node's is for nodes"},
		{context.Canceled, "it may have been done nevertheless; look with: strata ls -l, and repeat the command if not"},
	}
}

func hintFor(err error) string {
	var usage *usageError
	if errors.As(err, &usage) {
		return "see: " + usage.cmd + " --help"
	}
	var hinted *hintedError
	if errors.As(err, &hinted) {
		return hinted.hint
	}
	for _, h := range hints() {
		if errors.Is(err, h.is) {
			return h.text
		}
	}
	return ""
}

// adviseDial says what to do about a store that cannot even be called.
func adviseDial(err error) error {
	switch {
	case errors.Is(err, pki.ErrExpired):
		return advise(err, "renew it with: strata certs renew DIR, or have whoever issued it do so")
	case errors.Is(err, pki.ErrMissing), errors.Is(err, pki.ErrMalformed), errors.Is(err, pki.ErrRole):
		return advise(err, "give --tls-ca, --tls-cert and --tls-key, all three; strata certs init makes such files")
	}
	return advise(err, "name a store with --store or %s: the path of its socket or data directory, or host:port; another machine wants --tls-ca, --tls-cert and --tls-key, or --insecure", storeEnv)
}

// report prints an error and returns the exit code.
func (c *cli) report(err error) int {
	if err == nil {
		return 0
	}
	text, what := strings.TrimSpace(err.Error()), hintFor(err)
	if c.format == "json" {
		e := json.NewEncoder(c.err)
		e.SetEscapeHTML(false)
		_ = e.Encode(struct {
			Error string `json:"error"`
			Hint  string `json:"hint,omitempty"`
		}{text, what})
	} else {
		fmt.Fprintf(c.err, "strata: %s\n", strings.ReplaceAll(text, "\n", "\nstrata: "))
		if what != "" {
			fmt.Fprintf(c.err, "hint: %s\n", what)
		}
	}
	var usage *usageError
	if errors.As(err, &usage) {
		return 2
	}
	return 1
}
