package meta

import (
	"bytes"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// NextLayer hands out one layer id; see ReserveLayers.
func (t *Tx) NextLayer() (LayerID, error) { return t.ReserveLayers(1) }

// ReserveLayers hands out n consecutive layer ids and returns the first. They are
// never handed out again once the transaction is committed. Until SetReservedFrom
// moves past them they lie in the window of Reserved, bound or not.
func (t *Tx) ReserveLayers(n int) (LayerID, error) {
	if n <= 0 {
		return 0, fmt.Errorf("catalogue: reserve %d layers: %w", n, store.ErrInvalid)
	}
	_, next, err := t.Reserved()
	if err != nil {
		return 0, err
	}
	return next, t.putRow(bState, []byte(keyNext), layerKey(next+LayerID(n)))
}

// Reserved is the window [from, to) of ids that may belong to files without a row:
// a crash came between the making of a layer's files and the transaction that binds
// it. to is also the next id to be handed out.
func (t *Tx) Reserved() (from, to LayerID, err error) {
	if from, err = t.stateLayer(keyReserved); err != nil {
		return 0, 0, err
	}
	if to, err = t.stateLayer(keyNext); err != nil {
		return 0, 0, err
	}
	if from == 0 || to < from {
		return 0, 0, fmt.Errorf("catalogue: reserved layers %d to %d: %w", from, to, store.ErrCorrupt)
	}
	return from, to, nil
}

func (t *Tx) stateLayer(key string) (LayerID, error) {
	content, err := t.getRow(bState, []byte(key))
	if err != nil {
		return 0, err
	}
	if len(content) != 8 {
		return 0, fmt.Errorf("catalogue: state %q is missing or malformed: %w", key, store.ErrCorrupt)
	}
	return lastLayer(content)
}

// SetReservedFrom says that no id below from can be an orphan any more.
func (t *Tx) SetReservedFrom(from LayerID) error {
	low, high, err := t.Reserved()
	if err != nil {
		return err
	}
	if from < low || from > high {
		return fmt.Errorf("catalogue: end of reservation %d is outside %d to %d: %w", from, low, high, store.ErrInvalid)
	}
	return t.putRow(bState, []byte(keyReserved), layerKey(from))
}

// PutIntent writes an intent; with ID 0 it gets the next one. The result carries
// the id.
func (t *Tx) PutIntent(i Intent) (Intent, error) {
	if i.ID == 0 {
		id, err := t.addCounter(bIntents, 1)
		if err != nil {
			return i, err
		}
		i.ID = id
	}
	return i, t.putJSON(bIntents, u64(i.ID), i)
}

// DeleteIntent forgets an intent; one that does not exist is no error.
func (t *Tx) DeleteIntent(id uint64) error { return t.del(bIntents, u64(id)) }

// Intents lists all intents, oldest first.
func (t *Tx) Intents() ([]Intent, error) {
	var out []Intent
	err := t.scanRows(bIntents, nil, func(k, content []byte) error {
		var i Intent
		err := decodeJSON(bIntents, k, content, &i)
		out = append(out, i)
		return err
	})
	return out, err
}

// PutPublication writes the publication of an object to a node.
func (t *Tx) PutPublication(p Publication) error {
	if err := checkKey("object id of a publication", string(p.ID)); err != nil {
		return err
	}
	if err := checkKey("node of a publication", p.Node); err != nil {
		return err
	}
	return t.putJSON(bPubs, scopedKey(p.ID, p.Node), p)
}

// DeletePublication withdraws one; one that does not exist is no error.
func (t *Tx) DeletePublication(id store.ID, node string) error {
	return t.del(bPubs, scopedKey(id, node))
}

// Publications lists those of one object by node, or all if id is "".
func (t *Tx) Publications(id store.ID) ([]Publication, error) {
	var prefix []byte
	if id != "" {
		prefix = scopedPrefix(id)
	}
	var out []Publication
	err := t.scanRows(bPubs, prefix, func(k, content []byte) error {
		p, err := decodePublication(k, content)
		out = append(out, p)
		return err
	})
	return out, err
}

// PutJob writes a job's row, which means nothing here.
func (t *Tx) PutJob(id string, row []byte) error {
	if err := checkKey("job id", id); err != nil {
		return err
	}
	return t.putRow(bJobs, []byte(id), row)
}

// DeleteJob forgets a job; one that does not exist is no error.
func (t *Tx) DeleteJob(id string) error {
	if id == "" {
		return nil
	}
	return t.del(bJobs, []byte(id))
}

// Jobs lists all jobs in the order of ids.
func (t *Tx) Jobs() ([]Job, error) {
	var out []Job
	err := t.scanRows(bJobs, nil, func(k, content []byte) error {
		out = append(out, Job{ID: string(k), Row: bytes.Clone(content)})
		return nil
	})
	return out, err
}

// Mark reads the value under key, nil if there is none.
func (t *Tx) Mark(key string) ([]byte, error) {
	if err := checkKey("mark", key); err != nil {
		return nil, err
	}
	content, err := t.getRow(bMarks, []byte(key))
	if err != nil || content == nil {
		return nil, err
	}
	return append([]byte{}, content...), nil
}

// PutMark writes the value under key; nil forgets it.
func (t *Tx) PutMark(key string, value []byte) error {
	if err := checkKey("mark", key); err != nil {
		return err
	}
	if value == nil {
		return t.del(bMarks, []byte(key))
	}
	return t.putRow(bMarks, []byte(key), value)
}

// notePrefix keeps the notes of a store's users apart from the engine's own marks.
const notePrefix = "note/"

// Note reads the note under key; ok tells whether there is one.
func (t *Tx) Note(key string) (value string, ok bool, err error) {
	content, err := t.Mark(notePrefix + key)
	return string(content), content != nil, err
}

// PutNote writes a note; "" forgets it.
func (t *Tx) PutNote(key, value string) error {
	if value == "" {
		return t.PutMark(notePrefix+key, nil)
	}
	return t.PutMark(notePrefix+key, []byte(value))
}

// Notes calls fn for the notes below prefix in the order of keys.
func (t *Tx) Notes(prefix string, fn func(key, value string) error) error {
	return t.scanRows(bMarks, []byte(notePrefix+prefix), func(k, content []byte) error {
		return fn(string(k[len(notePrefix):]), string(content))
	})
}

// scanRows is scan with each row's checksum verified.
func (t *Tx) scanRows(b bucket, prefix []byte, fn func(key, content []byte) error) error {
	return t.scan(b, prefix, func(k, v []byte) (bool, error) {
		content, err := openRow(b, k, v)
		if err != nil {
			return false, err
		}
		return true, fn(k, content)
	})
}
