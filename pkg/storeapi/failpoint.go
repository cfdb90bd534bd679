package storeapi

import (
	"context"
	"path"

	"google.golang.org/grpc"

	"github.com/strata-csi/strata/pkg/failpoint"
)

// The failpoints "storeapi.<Method>" lie between what a call has done and its answer:
// the caller of a store that dies there does not know that it was obeyed.

func unaryFailpoint(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	reply, err := next(ctx, req)
	hit(info.FullMethod, err)
	return reply, err
}

func streamFailpoint(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	err := next(srv, ss)
	hit(info.FullMethod, err)
	return err
}

func hit(fullMethod string, err error) {
	if err == nil {
		failpoint.Hit("storeapi." + path.Base(fullMethod))
	}
}
