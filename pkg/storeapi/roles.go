package storeapi

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/strata-csi/strata/pkg/pki"
	"github.com/strata-csi/strata/pkg/storeapi/storepb"
)

// ErrDenied: the caller's certificate does not give the right to that call.
var ErrDenied = errors.New("permission denied")

// nodeNotes begin the keys of notes that nodes write; nodes also read those that say
// which stores a pool has.
const nodeNotes = "node/"

// nodeMay are the calls that a node may make, with what must hold for the request, or
// nil. What is not here it may not.
func nodeMay() map[string]func(req any) error {
	return map[string]func(any) error{
		storepb.Store_Stat_FullMethodName:         nil,
		storepb.Store_Lookup_FullMethodName:       nil,
		storepb.Store_Usage_FullMethodName:        nil,
		storepb.Store_Status_FullMethodName:       nil,
		storepb.Store_Endpoints_FullMethodName:    nil,
		storepb.Store_Publications_FullMethodName: nil, // without tokens, see guarded
		storepb.Store_Modify_FullMethodName:       onlyFormat,
		storepb.Store_Note_FullMethodName:         readableNote,
		storepb.Store_Notes_FullMethodName:        readableNotes,
		storepb.Store_SwapNote_FullMethodName:     ownNote,
	}
}

func onlyFormat(req any) error {
	r, ok := req.(*storepb.ModifyRequest)
	if !ok || r.GetPolicy() != nil || r.GetLimits() != nil {
		return errors.New("only the format")
	}
	return nil
}

func ownNote(req any) error {
	if r, ok := req.(*storepb.SwapNoteRequest); ok && strings.HasPrefix(string(r.GetKey()), nodeNotes) {
		return nil
	}
	return errors.New("only notes of nodes")
}

func readableNote(req any) error {
	r, ok := req.(*storepb.NoteRequest)
	if key := string(r.GetKey()); ok && (key == "pool" || readable(key)) {
		return nil
	}
	return errors.New("only notes of nodes and pools")
}

func readableNotes(req any) error {
	if r, ok := req.(*storepb.NotesRequest); ok && readable(string(r.GetPrefix())) {
		return nil
	}
	return errors.New("only notes of nodes and pools")
}

func readable(key string) bool {
	return strings.HasPrefix(key, nodeNotes) || strings.HasPrefix(key, "member/")
}

// right is what a caller may do: everything, or the calls of a table.
type right struct {
	role  pki.Role
	all   bool
	calls map[string]func(any) error
}

// rightOf finds out who calls.
func rightOf(ctx context.Context) (right, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return right{}, fmt.Errorf("who calls is not known: %w", ErrDenied)
	}
	switch info := p.AuthInfo.(type) {
	case trusted:
		return right{all: true}, nil
	case credentials.TLSInfo:
		role, err := pki.RoleOf(info.State)
		if err != nil {
			return right{}, fmt.Errorf("%w: %w", err, ErrDenied)
		}
		switch role {
		case pki.RoleController, pki.RoleOperator:
			return right{role: role, all: true}, nil
		case pki.RoleNode:
			return right{role: role, calls: nodeMay()}, nil
		case pki.RoleStore:
		}
		return right{role: role}, nil
	}
	return right{}, fmt.Errorf("who calls is not known: %w", ErrDenied)
}

// admit tells whether a method may be called at all.
func (r right) admit(method string) error {
	if r.all {
		return nil
	}
	if _, ok := r.calls[method]; !ok {
		return fmt.Errorf("%s is not for the role %q, which the certificate names: %w", path.Base(method), r.role, ErrDenied)
	}
	return nil
}

// check tells whether a request of a method that is admitted may be made.
func (r right) check(method string, req any) error {
	rule := r.calls[method]
	if r.all || rule == nil {
		return nil
	}
	if err := rule(req); err != nil {
		return fmt.Errorf("%s is for the role %q, which the certificate names, with a limit: %w: %w", path.Base(method), r.role, err, ErrDenied)
	}
	return nil
}

func unaryRoles(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	r, err := rightOf(ctx)
	if err == nil {
		err = r.admit(info.FullMethod)
	}
	if err == nil {
		err = r.check(info.FullMethod, req)
	}
	if err != nil {
		return nil, toStatus(err)
	}
	return next(ctx, req)
}

func streamRoles(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	r, err := rightOf(ss.Context())
	if err == nil {
		err = r.admit(info.FullMethod)
	}
	if err != nil {
		return toStatus(err)
	}
	if r.all {
		return next(srv, ss)
	}
	return next(srv, guarded{ServerStream: ss, right: r, method: info.FullMethod})
}

// guarded checks the request of a stream, and takes the secrets out of its answers.
type guarded struct {
	grpc.ServerStream
	right  right
	method string
}

// RecvMsg implements grpc.ServerStream.
func (g guarded) RecvMsg(m any) error {
	if err := g.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if err := g.right.check(g.method, m); err != nil {
		return toStatus(err)
	}
	return nil
}

// SendMsg implements grpc.ServerStream. A message is made for this stream alone.
func (g guarded) SendMsg(m any) error {
	if page, ok := m.(*storepb.PublicationPage); ok {
		for _, p := range page.GetItems() {
			p.Token = ""
		}
	}
	return g.ServerStream.SendMsg(m)
}
