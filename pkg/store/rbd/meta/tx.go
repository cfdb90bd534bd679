package meta

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/strata-csi/strata/pkg/store"
)

// Tx is a change of the catalogue under way: the state with what was changed so far.
// It lives inside the function given to Update.
type Tx struct {
	*State
	changed map[string][]byte // what is to be written; nil deletes
	before  map[string][]byte // what was there
	jobs    []store.Job       // new ones
}

func (t *Tx) put(key string, row any) {
	raw, err := json.Marshal(row)
	if err == nil {
		err = t.set(key, raw)
	}
	if err != nil { // rows are plain data of this package
		panic(fmt.Sprintf("meta: write row %q: %v", key, err))
	}
}

func (t *Tx) set(key string, raw []byte) error {
	if _, ok := t.before[key]; !ok {
		t.before[key] = t.raw[key]
	}
	t.changed[key] = raw
	return t.apply(key, raw)
}

func (t *Tx) drop(key string) {
	_ = t.set(key, nil) // forgetting a row never fails
}

// undo brings the state back to what it was.
func (t *Tx) undo() {
	for key, raw := range t.before {
		_ = t.apply(key, raw) // it was accepted before
	}
}

// PutImage writes a row.
func (t *Tx) PutImage(i Image) { t.put(imageKey(i.ID), i) }

// DropImage forgets an image.
func (t *Tx) DropImage(id store.ID) { t.drop(imageKey(id)) }

// PutSnapshot writes a row.
func (t *Tx) PutSnapshot(s Snapshot) { t.put(snapKey(s.ID), s) }

// DropSnapshot forgets a snapshot.
func (t *Tx) DropSnapshot(id store.ID) { t.drop(snapKey(id)) }

// PutPublication writes a row.
func (t *Tx) PutPublication(p store.Publication) { t.put(pubKey(p.ID, p.Node), p) }

// DropPublication forgets a publication.
func (t *Tx) DropPublication(p store.Publication) { t.drop(pubKey(p.ID, p.Node)) }

// PutIntent writes a row.
func (t *Tx) PutIntent(i Intent) { t.put(intentKey(i.ID), i) }

// DropIntent forgets an intent.
func (t *Tx) DropIntent(id string) { t.drop(intentKey(id)) }

// Seen takes a member off those that a cut waits for, and returns the image that was the
// parent if it waits for nobody any more.
func (t *Tx) Seen(cut, member string) (parent store.ID) {
	c, ok := t.Cuts[cut]
	if !ok {
		return ""
	}
	c.Waiting = slices.DeleteFunc(slices.Clone(c.Waiting), func(m string) bool { return m == member })
	if len(c.Waiting) > 0 {
		t.put(cutKey(cut), c)
		return ""
	}
	t.drop(cutKey(cut))
	return c.Link.Image
}

// PutMember writes a row.
func (t *Tx) PutMember(m Member) { t.put(memberKey(m.Name), m) }

// PutJob writes the row of a job.
func (t *Tx) PutJob(j Job) { t.put(jobKey(j.ID), j) }

// DropJob forgets a job.
func (t *Tx) DropJob(id string) { t.drop(jobKey(id)) }

// AddJob writes the row of a new job, which Update returns for the queue.
func (t *Tx) AddJob(j store.Job, owner string) {
	t.PutJob(Job{Job: j, Owner: owner})
	t.jobs = append(t.jobs, j)
}

// PutMeta writes the installation's own row.
func (t *Tx) PutMeta(m Meta) { t.put(MetaKey, m) }

// SetNote writes a note; "" deletes it.
func (t *Tx) SetNote(key, value string) {
	if value == "" {
		t.drop(noteKey(key))
		return
	}
	_ = t.set(noteKey(key), []byte(value)) // notes are taken as they are
}
