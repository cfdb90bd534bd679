package layered

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/jobs"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/layer"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// jobSlack is the background job that gives back what a sealed layer has of allocation
// units beyond its data. It is written down by the transaction that seals.
const jobSlack store.JobKind = "slack"

// classOf tells how a kind of job shares the queue.
func classOf(kind store.JobKind) jobs.Class {
	switch kind {
	case store.JobMerge, store.JobDelete, jobSlack:
		return jobs.Short
	case store.JobScrub, jobSums:
		return jobs.Idle
	}
	return jobs.Long
}

func checkAllocUnit(unit int64) error {
	if unit == 0 || unit&(unit-1) == 0 && unit >= layer.MinAllocUnit && unit <= layer.MaxAllocUnit {
		return nil
	}
	return fmt.Errorf("allocation unit of %d bytes, want a power of two from %d to %d: %w", unit, layer.MinAllocUnit, layer.MaxAllocUnit, store.ErrInvalid)
}

// intendTrim writes down that the head that is being sealed gives back its slack.
func (st *Store) intendTrim(tx *meta.Tx, head meta.Layer, am *aftermath) error {
	if st.opts.AllocUnit <= layer.MinAllocUnit || head.Data == 0 {
		return nil
	}
	return am.add(tx, jobs.New(jobSlack, fmt.Sprint(head.ID), head.Data*blockSize))
}

// runSlack is the job of one layer. It changes no view; repeating it is harmless.
func (st *Store) runSlack(ctx context.Context, t *jobs.Task) error {
	id, err := layerTarget(t.Job())
	if err != nil {
		return err
	}
	if err := st.layers.claim(ctx, id); err != nil {
		return err
	}
	defer st.layers.unclaim(id)
	row, err := st.layerRow(id)
	if errors.Is(err, store.ErrNotFound) || err == nil && !row.Sealed {
		return nil // merged or removed meanwhile
	}
	if err != nil {
		return err
	}
	ref := st.layers.acquire(id)
	defer st.layers.release(ref)
	if err := st.restore(ref); err != nil {
		return st.copyAgain(err)
	}
	return st.copyAgain(st.trimSlack(ctx, t, ref, row.Size))
}

func (st *Store) trimSlack(ctx context.Context, t *jobs.Task, ref *layerRef, size int64) error {
	lay, err := ref.get()
	if err != nil {
		return err
	}
	if slack, err := lay.Slack(); err != nil || slack == 0 {
		return err
	}
	for chunk := int64(0); ; chunk++ {
		next, some, err := lay.NextChunk(chunk)
		if err != nil {
			return st.noticeDamage(ref.id, err)
		}
		if !some {
			break
		}
		chunk = next
		if err := lay.TrimChunk(chunk); err != nil {
			return err
		}
		t.Progress(min((chunk+1)*chunkBytes, size), size, 0)
		if err := t.Pace(ctx, 0); err != nil {
			return err
		}
	}
	if err := lay.TrimEnd(); err != nil {
		return err
	}
	return lay.Flush()
}
