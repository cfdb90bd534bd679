#!/usr/bin/env bash
# Regenerates pkg/storeapi/storepb from pkg/storeapi/proto.
# Needs protoc and its own files (Debian: protobuf-compiler, libprotobuf-dev); the Go plugins are tools of go.mod.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v protoc >/dev/null || {
	echo "update-proto: protoc is missing; on Debian: apt-get install protobuf-compiler libprotobuf-dev" >&2
	exit 1
}
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin/" google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
protoc \
	--plugin="protoc-gen-go=$bin/protoc-gen-go" \
	--plugin="protoc-gen-go-grpc=$bin/protoc-gen-go-grpc" \
	--proto_path=pkg/storeapi/proto \
	--go_out=. --go_opt=module=github.com/strata-csi/strata \
	--go-grpc_out=. --go-grpc_opt=module=github.com/strata-csi/strata \
	strata.proto
