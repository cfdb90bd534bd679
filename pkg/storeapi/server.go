package storeapi

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi/storepb"
)

// Server offers a store over gRPC. It owns nothing: whoever made the store closes
// it, after the grpc.Server has stopped.
type Server struct {
	storepb.UnimplementedStoreServer
	full store.Full
	nbd  []string
	// resizing keeps a size from changing between a look at it and what follows.
	resizing turns
}

// NewServer makes a server of full. nbd are the endpoints where its bytes are
// served: NBD URIs without a
// name, the preferred one first.
func NewServer(full store.Full, nbd ...string) *Server {
	return &Server{full: full, nbd: nbd}
}

// Register adds the service to g.
func (s *Server) Register(g grpc.ServiceRegistrar) {
	storepb.RegisterStoreServer(g, s)
}

// Create implements storepb.StoreServer.
func (s *Server) Create(ctx context.Context, r *storepb.CreateRequest) (*storepb.Info, error) {
	return oneInfo(s.full.Create(ctx, specFromProto(r)))
}

// Adopt implements storepb.StoreServer.
func (s *Server) Adopt(ctx context.Context, r *storepb.AdoptRequest) (*storepb.Info, error) {
	adopter, ok := s.full.(store.Adopter)
	if !ok {
		return nil, toStatus(fmt.Errorf("adopt %q: this kind of store has no images of others beside its own: %w", r.GetSource(), store.ErrUnsupported))
	}
	return oneInfo(adopter.Adopt(ctx, store.Adoption{
		Source: r.GetSource(), Name: r.GetName(), BlockSize: int(r.GetBlockSize()), Policy: policyFromProto(r.GetPolicy()),
	}))
}

// Snapshot implements storepb.StoreServer.
func (s *Server) Snapshot(ctx context.Context, r *storepb.SnapshotRequest) (*storepb.Info, error) {
	return oneInfo(s.full.Snapshot(ctx, store.ID(r.GetImage()), r.GetName()))
}

// Stat implements storepb.StoreServer.
func (s *Server) Stat(ctx context.Context, r *storepb.ObjectRequest) (*storepb.Info, error) {
	return oneInfo(s.full.Stat(ctx, store.ID(r.GetId())))
}

// Lookup implements storepb.StoreServer.
func (s *Server) Lookup(ctx context.Context, r *storepb.LookupRequest) (*storepb.Info, error) {
	return oneInfo(s.full.Lookup(ctx, r.GetRef()))
}

// Modify implements storepb.StoreServer.
func (s *Server) Modify(ctx context.Context, r *storepb.ModifyRequest) (*storepb.Info, error) {
	return oneInfo(s.full.Modify(ctx, store.ID(r.GetImage()), changeFromProto(r)))
}

// Remove implements storepb.StoreServer.
func (s *Server) Remove(ctx context.Context, r *storepb.ObjectRequest) (*storepb.Empty, error) {
	return done(s.full.Remove(ctx, store.ID(r.GetId())))
}

// Revert implements storepb.StoreServer.
func (s *Server) Revert(ctx context.Context, r *storepb.RevertRequest) (*storepb.Empty, error) {
	return done(s.full.Revert(ctx, store.ID(r.GetImage()), store.ID(r.GetSnapshot())))
}

// Usage implements storepb.StoreServer.
func (s *Server) Usage(ctx context.Context, r *storepb.ObjectRequest) (*storepb.UsageReply, error) {
	u, err := s.full.Usage(ctx, store.ID(r.GetId()))
	if err != nil {
		return nil, toStatus(err)
	}
	return usageToProto(u), nil
}

// Status implements storepb.StoreServer.
func (s *Server) Status(ctx context.Context, _ *storepb.StatusRequest) (*storepb.StatusReply, error) {
	st, err := s.full.Status(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	return statusToProto(st), nil
}

// Publish implements storepb.StoreServer.
func (s *Server) Publish(ctx context.Context, r *storepb.PublishRequest) (*storepb.Publication, error) {
	p, err := s.full.Publish(ctx, store.ID(r.GetId()), r.GetNode(), store.Access(r.GetAccess()))
	if err != nil {
		return nil, toStatus(err)
	}
	return publicationToProto(p), nil
}

// Unpublish implements storepb.StoreServer.
func (s *Server) Unpublish(ctx context.Context, r *storepb.UnpublishRequest) (*storepb.Empty, error) {
	return done(s.full.Unpublish(ctx, store.ID(r.GetId()), r.GetNode()))
}

// Note implements storepb.StoreServer.
func (s *Server) Note(ctx context.Context, r *storepb.NoteRequest) (*storepb.NoteReply, error) {
	value, err := s.full.Note(ctx, string(r.GetKey()))
	if err != nil {
		return nil, toStatus(err)
	}
	return &storepb.NoteReply{Value: []byte(value)}, nil
}

// SwapNote implements storepb.StoreServer.
func (s *Server) SwapNote(ctx context.Context, r *storepb.SwapNoteRequest) (*storepb.Empty, error) {
	return done(s.full.SwapNote(ctx, string(r.GetKey()), string(r.GetOld()), string(r.GetValue())))
}

// StartFlatten implements storepb.StoreServer.
func (s *Server) StartFlatten(ctx context.Context, r *storepb.ObjectRequest) (*storepb.Job, error) {
	j, err := s.full.StartFlatten(ctx, store.ID(r.GetId()))
	if err != nil {
		return nil, toStatus(err)
	}
	return jobToProto(j), nil
}

// StartScrub implements storepb.StoreServer.
func (s *Server) StartScrub(ctx context.Context, _ *storepb.ScrubRequest) (*storepb.Job, error) {
	scrubber, ok := s.full.(store.Scrubber)
	if !ok {
		return nil, toStatus(fmt.Errorf("scrub: this kind of store has nothing to scrub: %w", store.ErrUnsupported))
	}
	j, err := scrubber.StartScrub(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	return jobToProto(j), nil
}

// PauseJob implements storepb.StoreServer.
func (s *Server) PauseJob(ctx context.Context, r *storepb.JobRequest) (*storepb.Empty, error) {
	return done(s.full.PauseJob(ctx, r.GetJob()))
}

// ResumeJob implements storepb.StoreServer.
func (s *Server) ResumeJob(ctx context.Context, r *storepb.JobRequest) (*storepb.Empty, error) {
	return done(s.full.ResumeJob(ctx, r.GetJob()))
}

// CancelJob implements storepb.StoreServer.
func (s *Server) CancelJob(ctx context.Context, r *storepb.JobRequest) (*storepb.Empty, error) {
	return done(s.full.CancelJob(ctx, r.GetJob()))
}

// Endpoints implements storepb.StoreServer.
func (s *Server) Endpoints(context.Context, *storepb.EndpointsRequest) (*storepb.EndpointsReply, error) {
	return &storepb.EndpointsReply{Nbd: s.nbd}, nil
}

func oneInfo(i store.Info, err error) (*storepb.Info, error) {
	if err != nil {
		return nil, toStatus(err)
	}
	return infoToProto(i), nil
}

func done(err error) (*storepb.Empty, error) {
	if err != nil {
		return nil, toStatus(err)
	}
	return &storepb.Empty{}, nil
}
