package vfs

import "slices"

const (
	pageSize   = 4096
	sectorSize = 512
)

// page is never changed once it is in a pageSet: a write puts a new one in its
// place. So the live file, what is on disk and every crash clone share pages.
type page [pageSize]byte

// pageSet is the content of a file. Pages that are not there read as zero, and
// bytes of the last page beyond size are zero.
type pageSet struct {
	pages map[int64]*page
	size  int64
}

func newPageSet() pageSet { return pageSet{pages: map[int64]*page{}} }

func (s *pageSet) clone() pageSet {
	c := pageSet{pages: make(map[int64]*page, len(s.pages)), size: s.size}
	for i, p := range s.pages {
		c.pages[i] = p
	}
	return c
}

// read fills p from off as far as the size goes.
func (s *pageSet) read(p []byte, off int64) int {
	if off >= s.size {
		return 0
	}
	n := int(min(int64(len(p)), s.size-off))
	for done := 0; done < n; {
		i, in := (off+int64(done))/pageSize, (off+int64(done))%pageSize
		want := p[done:min(n, done+pageSize-int(in))]
		if have := s.pages[i]; have != nil {
			copy(want, have[in:])
		} else {
			clear(want)
		}
		done += len(want)
	}
	return n
}

// missing counts the pages that a write would add.
func (s *pageSet) missing(off, length int64) int64 {
	var n int64
	for i := off / pageSize; i*pageSize < off+length; i++ {
		if s.pages[i] == nil {
			n++
		}
	}
	return n
}

// write stores p at off and returns the new versions of the pages it touched.
func (s *pageSet) write(p []byte, off int64) []*page {
	first := off / pageSize
	made := make([]*page, 0, (off+int64(len(p))-1)/pageSize-first+1)
	for done := 0; done < len(p); {
		i, in := (off+int64(done))/pageSize, (off+int64(done))%pageSize
		next := new(page)
		if have := s.pages[i]; have != nil {
			*next = *have
		}
		done += copy(next[in:], p[done:])
		s.pages[i] = next
		made = append(made, next)
	}
	s.size = max(s.size, off+int64(len(p)))
	return made
}

// truncate sets the size.
func (s *pageSet) truncate(size int64) {
	if size < s.size {
		s.zero(size, s.size-size)
	}
	s.size = size
}

// zero removes whole pages of the range and zeroes the parts of others.
func (s *pageSet) zero(off, length int64) {
	end := off + length
	if end < off {
		end = 1<<63 - 1
	}
	for _, i := range s.within(off, end) {
		from, to := max(off-i*pageSize, 0), min(end-i*pageSize, pageSize)
		if from == 0 && to == pageSize {
			delete(s.pages, i)
			continue
		}
		next := *s.pages[i]
		clear(next[from:to])
		s.pages[i] = &next
	}
}

// within lists the pages that exist in [off, end), in ascending order. It costs
// the smaller of the range and the file.
func (s *pageSet) within(off, end int64) []int64 {
	first, last := off/pageSize, (end-1)/pageSize
	var found []int64
	if last-first < int64(len(s.pages)) {
		for i := first; i <= last; i++ {
			if s.pages[i] != nil {
				found = append(found, i)
			}
		}
		return found
	}
	for i := range s.pages {
		if i >= first && i <= last {
			found = append(found, i)
		}
	}
	slices.Sort(found)
	return found
}

// putSector replaces one sector by the same sector of another version of its page.
func (s *pageSet) putSector(sector int64, from *page) {
	i, in := sector*sectorSize/pageSize, sector*sectorSize%pageSize
	next := new(page)
	if have := s.pages[i]; have != nil {
		*next = *have
	}
	copy(next[in:in+sectorSize], from[in:])
	s.pages[i] = next
}
