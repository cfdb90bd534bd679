package storeapi

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"

	"github.com/strata-csi/strata/pkg/pki"
)

const (
	// maxRequest bounds what a client may send in one message, in bytes. The
	// largest honest request is a creation of a few KiB.
	maxRequest = 64 << 10
	// maxReply bounds what a client accepts in one message, in bytes. Pages are far
	// smaller; Status of a store with many jobs is the largest.
	maxReply = 64 << 20
	// maxStreams bounds the calls in flight on one connection.
	maxStreams = 1024
)

// ServerOptions are the grpc options every store API server uses: a bound on
// requests, a log line for each (level 4, failures of the store at level 2), recovery
// from panics, and who may call what. With files, TCP connections must use TLS and show
// a certificate with a role; without, they may call everything, as unix ones always may.
func ServerOptions(log klog.Logger, files pki.Files) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(serverCredentials(log, files)),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(unaryInterceptor(log), unaryRoles, unaryFailpoint),
		grpc.ChainStreamInterceptor(streamInterceptor(log), streamRoles, streamFailpoint),
	}
}

func unaryInterceptor(log klog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (reply any, err error) {
		log := log.WithValues("method", info.FullMethod)
		defer finish(log, time.Now(), &err)
		return next(klog.NewContext(ctx, log), req)
	}
}

func streamInterceptor(log klog.Logger) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
		log := log.WithValues("method", info.FullMethod)
		defer finish(log, time.Now(), &err)
		return next(srv, stream{ServerStream: ss, ctx: klog.NewContext(ss.Context(), log)})
	}
}

// stream carries the logger in its context.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s stream) Context() context.Context { return s.ctx }

// finish is deferred by both interceptors: it turns a panic of the handler into an
// Internal error and logs the request. Requests and replies are never logged, since
// they may hold tokens.
func finish(log klog.Logger, began time.Time, err *error) {
	if p := recover(); p != nil {
		log.Error(fmt.Errorf("panic: %v", p), "Request failed", "stack", string(debug.Stack()))
		*err = status.Errorf(codes.Internal, "internal error in the store: %v", p)
		return
	}
	took := time.Since(began)
	switch status.Code(*err) {
	case codes.OK:
		log.V(4).Info("Request served", "took", took)
	case codes.Internal, codes.Unknown, codes.DataLoss, codes.ResourceExhausted:
		log.Error(*err, "Request failed", "took", took)
	default:
		log.V(2).Info("Request refused", "took", took, "err", *err)
	}
}
