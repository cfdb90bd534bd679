package layered

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/flatten"
	"github.com/strata-csi/strata/pkg/jobs"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// aftermath is background work that a transaction wrote down and that starts once
// it is committed.
type aftermath struct {
	jobs []store.Job
}

// add writes a job's row. A crash after the commit finds it at start-up.
func (am *aftermath) add(tx *meta.Tx, j store.Job) error {
	row, err := json.Marshal(j)
	if err != nil {
		return err
	}
	am.jobs = append(am.jobs, j)
	return tx.PutJob(j.ID, row)
}

func (am *aftermath) flattening(id store.ID) bool {
	for _, j := range am.jobs {
		if j.Kind == store.JobFlatten && j.Target == string(id) {
			return true
		}
	}
	return false
}

// settle starts what a committed transaction wrote down.
func (st *Store) settle(am aftermath) {
	for _, j := range am.jobs {
		st.jobs.Adopt(j)
	}
}

// collect looks at a layer that may have lost its last reference. Without children
// it goes, and the look moves to its parent; with one sealed child the two are
// merged; under a head it stays as that image's spare layer until the next seal.
func (st *Store) collect(tx *meta.Tx, id meta.LayerID, am *aftermath) error {
	for id != 0 {
		l, err := tx.Layer(id)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if held, err := st.held(tx, l, am); held || err != nil {
			return err
		}
		kids, err := tx.Children(id)
		if err != nil {
			return err
		}
		switch len(kids) {
		case 0:
			if err := st.forget(tx, l, am); err != nil {
				return err
			}
			id = l.Parent
		case 1:
			return st.intendMerge(tx, l, kids[0], am)
		default:
			return nil
		}
	}
	return nil
}

// held tells whether a layer must be left alone: a head or snapshot needs it, or a
// merge has hold of it and looks at it again when it ends.
func (st *Store) held(tx *meta.Tx, l meta.Layer, am *aftermath) (bool, error) {
	if l.Merging != 0 {
		return true, st.tryAgain(tx, l.ID, am)
	}
	referenced, err := tx.Referenced(l.ID)
	if referenced || err != nil || l.Parent == 0 {
		return referenced, err
	}
	below, err := tx.Layer(l.Parent)
	if err != nil || below.Merging != l.ID {
		return false, err
	}
	return true, st.tryAgain(tx, below.ID, am)
}

// tryAgain has a merge that has failed looked at anew: with what has changed it may
// have become needless, as when the images over a damaged layer were removed.
func (st *Store) tryAgain(tx *meta.Tx, lower meta.LayerID, am *aftermath) error {
	if st.jobs != nil { // before the queue is loaded, a row too many does no harm
		if j, found := st.jobs.Find(store.JobMerge, fmt.Sprint(lower)); !found || j.State != store.JobFailed {
			return nil
		}
	}
	return am.add(tx, jobs.New(store.JobMerge, fmt.Sprint(lower), 0))
}

// forget deletes a layer's row and has its files removed, and the tombstone of its
// image with the image's last layer.
func (st *Store) forget(tx *meta.Tx, l meta.Layer, am *aftermath) error {
	if _, err := dropIndex(tx, l); err != nil {
		return err
	}
	if err := tx.DeleteLayer(l.ID); err != nil {
		return err
	}
	if err := am.add(tx, jobs.New(store.JobDelete, fmt.Sprint(l.ID), l.Data*blockSize)); err != nil {
		return err
	}
	return dropTombstone(tx, l.Image)
}

func dropTombstone(tx *meta.Tx, id store.ID) error {
	img, err := tx.Image(id)
	if err != nil || !img.Removed {
		return err
	}
	rest, err := tx.LayersOf(id)
	if err != nil || len(rest) > 0 {
		return err
	}
	return tx.DeleteImage(id)
}

// intendMerge writes down that an unreferenced layer merges with its one child. From
// then on the layer takes no new reference.
func (st *Store) intendMerge(tx *meta.Tx, l meta.Layer, child meta.LayerID, am *aftermath) error {
	above, err := tx.Layer(child)
	if err != nil || !above.Sealed {
		return err
	}
	l.Merging = child
	if err := tx.PutLayer(l); err != nil {
		return err
	}
	return am.add(tx, jobs.New(store.JobMerge, fmt.Sprint(l.ID), min(l.Data, above.Data)*blockSize))
}

// tooDeep ends the transaction of a clone above the hard limit.
type tooDeep struct {
	name   string
	depth  int
	policy store.Policy
	target store.ID // whose flatten helps
	total  int64
}

func (e *tooDeep) Error() string {
	return fmt.Sprintf("image %q would be at clone depth %d, the hard limit is %d; image %s is being flattened, try again later: %v",
		e.name, e.depth, e.policy.Hard, e.target, store.ErrBusy)
}

func (e *tooDeep) Unwrap() error { return store.ErrBusy }

// limitDepth applies the depth policy to an image that the transaction has just
// made: above the soft limit it writes down a flatten, above the hard one it fails. With
// flat set the image's own flatten is written down, whatever its depth.
func (st *Store) limitDepth(tx *meta.Tx, img meta.Image, flat bool, am *aftermath) error {
	depth, err := tx.Depth(img.ID)
	if err != nil {
		return err
	}
	policy := st.effective(img.Policy)
	verdict := flatten.Decide(policy, depth)
	if flat && verdict != flatten.FlattenFirst && depth > 0 {
		return am.add(tx, jobs.New(store.JobFlatten, string(img.ID), img.Overlap))
	}
	if verdict == flatten.Link {
		return nil
	}
	ancestry, err := tx.Ancestry(img.ID)
	if err != nil {
		return err
	}
	steps, err := st.steps(tx, ancestry)
	if err != nil {
		return err
	}
	if verdict == flatten.FlattenFirst {
		return st.refuseDeep(img, policy, steps)
	}
	choice := flatten.Choose(steps, policy.Soft)
	if choice.Image == "" || choice.Already {
		return nil
	}
	return am.add(tx, jobs.New(store.JobFlatten, string(choice.Image), choice.Bytes))
}

// refuseDeep names the flatten that makes room for a clone. Where there is no space
// for that flatten, trying again would never help.
func (st *Store) refuseDeep(img meta.Image, policy store.Policy, steps []flatten.Step) error {
	steps[0].Blocked = true // it does not exist until the flatten is done
	choice := flatten.Choose(steps, policy.Soft)
	e := &tooDeep{name: img.Name, depth: steps[0].Depth, policy: policy, target: choice.Image, total: choice.Bytes}
	_, free, err := st.opts.FS.Space(st.opts.LayersDir)
	if err == nil && free-max(st.opts.Reserve, 0) < e.total {
		return fmt.Errorf("image %q would be at clone depth %d, the hard limit is %d, and flattening image %s needs %d bytes with %d free: %w",
			e.name, e.depth, policy.Hard, e.target, e.total, free, store.ErrNoSpace)
	}
	return e
}

// urge makes the flatten that a refused clone waits for urgent.
func (st *Store) urge(err error) {
	var deep *tooDeep
	if !errors.As(err, &deep) {
		return
	}
	j := jobs.New(store.JobFlatten, string(deep.target), deep.total)
	j.Urgent = true
	if _, err := st.jobs.Add(j); err != nil {
		st.opts.OnEvent(Event{"image " + string(deep.target), "its flatten could not be queued", err})
	}
}

// steps describes the path from a new image to the root for the policy.
func (st *Store) steps(tx *meta.Tx, ancestry []store.ID) ([]flatten.Step, error) {
	steps := make([]flatten.Step, len(ancestry))
	roots := make([]meta.LayerID, len(ancestry))
	for i, id := range ancestry {
		img, err := tx.Image(id)
		if err != nil {
			return nil, err
		}
		roots[i] = img.Root
		j, found := st.jobs.Find(store.JobFlatten, string(id))
		queued := found && (j.State == store.JobQueued || j.State == store.JobRunning)
		steps[i] = flatten.Step{Image: id, Depth: len(ancestry) - 1 - i, Queued: queued}
	}
	top, err := tx.Layer(roots[0])
	if err != nil {
		return nil, err
	}
	// own[i] is the data of the layers of image i that lie on the path.
	own := make([]int64, len(ancestry))
	for id, i := top.Parent, 1; id != 0; {
		l, err := tx.Layer(id)
		if err != nil {
			return nil, err
		}
		own[i] += l.Data * blockSize
		if id == roots[i] {
			i++
		}
		id = l.Parent
	}
	var below int64
	for i := len(steps) - 1; i >= 0; i-- {
		steps[i].Bytes = below
		below += own[i]
	}
	return steps, nil
}
