#!/usr/bin/env bash
# Runs golangci-lint at the pinned version with the arguments given. The first run
# on a machine builds it from source, which takes minutes; the binary is kept outside the
# repository, one for each version of it and of Go.
set -euo pipefail
cd "$(dirname "$0")/.."

version=v2.15.0
goversion=$(go env GOVERSION)
tools=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/strata/tools/golangci-lint-$version-$goversion
if [[ ! -x $tools/golangci-lint ]]; then
  echo "lint: building golangci-lint $version with $goversion (once)" >&2
  mkdir -p "$tools"
  build=$(mktemp -d "$tools/build.XXXXXX")
  trap 'rm -rf "$build"' EXIT
  # Outside the module, so that our go.mod has no say in its dependencies.
  (cd "$build" && CGO_ENABLED=0 GOBIN=$build \
    go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version")
  mv -f "$build/golangci-lint" "$tools/golangci-lint"
fi
"$tools/golangci-lint" "$@"
