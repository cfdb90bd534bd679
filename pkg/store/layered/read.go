package layered

import (
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/layer"
)

// run is a piece of a request that one layer answers; lay is nil where it reads zero.
type run struct {
	lay *layer.Layer
	n   int64
}

// resolve splits a byte range into runs and appends them to dst. The caller is in
// an srcu section and stays in it until it has read them.
func (v *view) resolve(off, n int64, dst []run) ([]run, error) {
	for n > 0 {
		chunk := off / chunkBytes
		part := min(n, (chunk+1)*chunkBytes-off)
		var err error
		if dst, err = v.resolveChunk(chunk, off, part, dst); err != nil {
			return dst, err
		}
		off, n = off+part, n-part
	}
	return dst, nil
}

func (v *view) resolveChunk(chunk, off, n int64, dst []run) ([]run, error) {
	s := v.shardOf(chunk)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := v.lookup(s, chunk)
	if err != nil {
		return dst, err
	}
	in := off - chunk*chunkBytes
	if e.mixed == nil {
		lay, err := v.layerAt(e.uniform)
		return appendRun(dst, lay, n), err
	}
	for n > 0 {
		b := in / layer.BlockSize
		at := e.mixed[b]
		end := b + 1
		for last := (in + n - 1) / layer.BlockSize; end <= last && e.mixed[end] == at; end++ {
		}
		part := min(n, end*layer.BlockSize-in)
		lay, err := v.layerAt(at)
		if err != nil {
			return dst, err
		}
		dst = appendRun(dst, lay, part)
		in, n = in+part, n-part
	}
	return dst, nil
}

func appendRun(dst []run, lay *layer.Layer, n int64) []run {
	if k := len(dst); k > 0 && dst[k-1].lay == lay {
		dst[k-1].n += n
		return dst
	}
	return append(dst, run{lay, n})
}

// layerAt returns the open layer of a slot, nil where it reads zero.
func (v *view) layerAt(at slot) (*layer.Layer, error) {
	if at == 0 || at&slotZero != 0 {
		return nil, nil
	}
	return v.table[at].get()
}

// read fills p from off. The range is inside the view.
func (v *view) read(p []byte, off int64) error {
	t := v.st.srcu.Enter()
	defer v.st.srcu.Exit(t)
	var few [8]run
	runs, err := v.resolve(off, int64(len(p)), few[:0])
	if err != nil {
		return err
	}
	for _, r := range runs {
		if r.lay == nil {
			clear(p[:r.n])
		} else if err := r.lay.ReadData(p[:r.n], off); err != nil {
			return fmt.Errorf("read %s at %d: %w", v.name, off, err)
		}
		p, off = p[r.n:], off+r.n
	}
	return nil
}

// inRange checks a request against the current size.
func (v *view) inRange(op string, off, n int64) error {
	if size := v.size.Load(); off < 0 || n < 0 || off > size-n {
		return fmt.Errorf("%s %s: offset %d, length %d is outside its %d bytes: %w", op, v.name, off, n, size, store.ErrRange)
	}
	return nil
}
