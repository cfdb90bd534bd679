package storeapi

import (
	"context"
	"slices"

	"google.golang.org/grpc"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi/storepb"
)

const (
	// pageItems is how many objects, problems, jobs or publications a page holds.
	pageItems = 256
	// pageExtents is how many extents a page holds.
	pageExtents = 4096
)

// Walk implements storepb.StoreServer. The walk is read whole before the first page
// is sent: a slow reader must not keep a catalogue transaction open.
func (s *Server) Walk(_ *storepb.WalkRequest, out grpc.ServerStreamingServer[storepb.InfoPage]) error {
	var all []*storepb.Info
	err := s.full.Walk(out.Context(), func(i store.Info) error {
		all = append(all, infoToProto(i))
		return nil
	})
	if err != nil {
		return toStatus(err)
	}
	return sendInfos(all, out)
}

// Children implements storepb.StoreServer.
func (s *Server) Children(r *storepb.ObjectRequest, out grpc.ServerStreamingServer[storepb.InfoPage]) error {
	all, err := s.full.Children(out.Context(), store.ID(r.GetId()))
	if err != nil {
		return toStatus(err)
	}
	return sendInfos(convert(all, infoToProto), out)
}

func sendInfos(all []*storepb.Info, out grpc.ServerStreamingServer[storepb.InfoPage]) error {
	return inPages(all, func(page []*storepb.Info) error {
		return out.Send(&storepb.InfoPage{Items: page})
	})
}

// inPages sends all in slices of at most pageItems.
func inPages[T any](all []T, send func([]T) error) error {
	for page := range slices.Chunk(all, pageItems) {
		if err := send(page); err != nil {
			return toStatus(err)
		}
	}
	return nil
}

// Flatten implements storepb.StoreServer. The store's own Flatten decides when it is
// over and with which error; the job is watched beside it for progress only.
func (s *Server) Flatten(r *storepb.ObjectRequest, out grpc.ServerStreamingServer[storepb.Job]) error {
	id := store.ID(r.GetId())
	job, err := s.full.StartFlatten(out.Context(), id)
	if err != nil {
		return toStatus(err)
	}
	if err := out.Send(jobToProto(job)); err != nil {
		return toStatus(err)
	}
	if job.State == store.JobDone {
		return nil
	}
	watch, stop := context.WithCancel(out.Context())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		// Why the watch ended does not matter: a failed send cancels the stream's
		// context, and everything else Flatten itself reports.
		_ = s.full.WatchJob(watch, job.ID, func(j store.Job) error {
			return out.Send(jobToProto(j))
		})
	}()
	err = s.full.Flatten(out.Context(), id)
	stop()
	<-watched
	return toStatus(err)
}

// WatchJob implements storepb.StoreServer.
func (s *Server) WatchJob(r *storepb.JobRequest, out grpc.ServerStreamingServer[storepb.Job]) error {
	return toStatus(s.full.WatchJob(out.Context(), r.GetJob(), func(j store.Job) error {
		return out.Send(jobToProto(j))
	}))
}

// Diff implements storepb.StoreServer.
func (s *Server) Diff(r *storepb.DiffRequest, out grpc.ServerStreamingServer[storepb.ExtentPage]) error {
	p := extentPage{out: out}
	err := s.full.Diff(out.Context(), store.ID(r.GetFrom()), store.ID(r.GetTo()), func(e store.Extent) error {
		p.add(e)
		if p.full() {
			return p.send()
		}
		return nil
	})
	if err != nil {
		return toStatus(err)
	}
	return toStatus(p.send())
}

// Extents implements storepb.StoreServer. It asks the device for one page at a time,
// so that nothing is held while a page travels.
func (s *Server) Extents(r *storepb.ExtentsRequest, out grpc.ServerStreamingServer[storepb.ExtentPage]) error {
	dev, err := s.full.Open(out.Context(), store.ID(r.GetId()))
	if err != nil {
		return toStatus(err)
	}
	defer dev.Close()
	p := extentPage{out: out}
	off, left := r.GetOffset(), r.GetLength()
	for {
		next := off
		err := dev.Extents(off, left, store.ID(r.GetBase()), func(e store.Extent) bool {
			p.add(e)
			next = e.Offset + e.Length
			return !p.full()
		})
		if err != nil {
			return toStatus(err)
		}
		if err := p.send(); err != nil {
			return toStatus(err)
		}
		if left -= next - off; left <= 0 || next == off {
			return nil
		}
		off = next
	}
}

// extentPage gathers extents into a message.
type extentPage struct {
	out   grpc.ServerStreamingServer[storepb.ExtentPage]
	items []*storepb.Extent
}

func (p *extentPage) add(e store.Extent) { p.items = append(p.items, extentToProto(e)) }

func (p *extentPage) full() bool { return len(p.items) >= pageExtents }

func (p *extentPage) send() error {
	if len(p.items) == 0 {
		return nil
	}
	err := p.out.Send(&storepb.ExtentPage{Items: p.items})
	p.items = nil
	return err
}

// Check implements storepb.StoreServer.
func (s *Server) Check(r *storepb.CheckRequest, out grpc.ServerStreamingServer[storepb.ProblemPage]) error {
	found, err := s.full.Check(out.Context(), r.GetDeep())
	if err != nil {
		return toStatus(err)
	}
	return inPages(convert(found, problemToProto), func(page []*storepb.Problem) error {
		return out.Send(&storepb.ProblemPage{Items: page})
	})
}

// Publications implements storepb.StoreServer.
func (s *Server) Publications(r *storepb.ObjectRequest, out grpc.ServerStreamingServer[storepb.PublicationPage]) error {
	all, err := s.full.Publications(out.Context(), store.ID(r.GetId()))
	if err != nil {
		return toStatus(err)
	}
	return inPages(convert(all, publicationToProto), func(page []*storepb.Publication) error {
		return out.Send(&storepb.PublicationPage{Items: page})
	})
}

// Notes implements storepb.StoreServer.
func (s *Server) Notes(r *storepb.NotesRequest, out grpc.ServerStreamingServer[storepb.NotePage]) error {
	var all []*storepb.NoteItem
	err := s.full.Notes(out.Context(), string(r.GetPrefix()), func(key, value string) error {
		all = append(all, &storepb.NoteItem{Key: []byte(key), Value: []byte(value)})
		return nil
	})
	if err != nil {
		return toStatus(err)
	}
	return inPages(all, func(page []*storepb.NoteItem) error {
		return out.Send(&storepb.NotePage{Items: page})
	})
}

// Jobs implements storepb.StoreServer.
func (s *Server) Jobs(_ *storepb.JobsRequest, out grpc.ServerStreamingServer[storepb.JobPage]) error {
	all, err := s.full.Jobs(out.Context())
	if err != nil {
		return toStatus(err)
	}
	return inPages(convert(all, jobToProto), func(page []*storepb.Job) error {
		return out.Send(&storepb.JobPage{Items: page})
	})
}
