package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
)

// once decides about a data directory that is no store when stores may be made without
// being asked for one by one. A record elsewhere, on a disk that is not the data's, holds
// which stores have been served from the directory: an empty directory is a new one only
// if there is none. The record is written after the store is made, so a crash between
// leaves a store, which the next start records.
type once struct {
	dir, record string
	// elsewhere: the directory holds no data but only sockets, as that of a gateway.
	elsewhere bool
}

// first is nil if a new store may be made in the directory. ErrNotFound: there was one.
// ErrInvalid: it holds something else.
func (o once) first() error {
	known, err := o.known()
	if err != nil {
		return err
	}
	if len(known) > 0 {
		return fmt.Errorf("data directory %s holds no store, but %s says that store %s was there: mount its disk; if that store is gone for good, remove the record, and a new one is made: %w",
			o.dir, o.record, strings.Join(known, " and "), store.ErrNotFound)
	}
	if o.elsewhere {
		return nil
	}
	return o.empty(o.dir)
}

// empty is nil if nothing is lost by making a store in dir. Directories without files are
// what an attempt that was cut short, or mkfs, leaves behind.
func (o once) empty(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrPermission): // lost+found belongs to root
			return fs.SkipDir
		case err != nil:
			return err
		case d.IsDir(), filepath.Ext(path) == ".new": // a catalogue that was cut short
			return nil
		}
		return fmt.Errorf("data directory %s is no store, and not empty: there is %s: %w", o.dir, path, store.ErrInvalid)
	})
	if err != nil && !errors.Is(err, store.ErrInvalid) {
		return fmt.Errorf("look into the data directory: %w", err)
	}
	return err
}

// known are the stores on record.
func (o once) known() ([]string, error) {
	b, err := os.ReadFile(o.record)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("record of stores: %w", err)
	}
	return strings.Fields(string(b)), nil
}

// keep adds a store to the record, durably.
func (o once) keep(uuid string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("record store %s in %s: %w", uuid, o.record, err)
		}
	}()
	known, err := o.known()
	if err != nil {
		return err
	}
	for _, k := range known {
		if k == uuid {
			return nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(o.record), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(o.record, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, uuid)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(o.record))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (p *process) once() once { return once{p.cfg.Data, p.cfg.InitOnce, p.cfg.Gateway.Pool != ""} }

// remember records the store that is served. A store that cannot be recorded is served
// nevertheless, since its volumes are waiting for it.
func (p *process) remember() {
	if p.cfg.InitOnce == "" {
		return
	}
	if err := p.once().keep(p.serving.UUID); err != nil {
		p.log.Error(err, "An empty directory in place of this store would be taken for a new one")
		p.warnings = append(p.warnings, err.Error())
	}
}
