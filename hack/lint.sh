#!/usr/bin/env bash
# Runs golangci-lint at the pinned version with the arguments given, or without any on all
# there is: the default build, then what build tags hide. The first run on a machine builds
# it from source, which takes minutes; the binary is kept outside the repository, one for
# each version of it and of Go.
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
if (($# > 0)); then
  exec "$tools/golangci-lint" "$@"
fi

# behind lints the packages that have files for any of some build tags, with all of them.
behind() {
  local packages
  mapfile -t packages < <(grep -rlE --include='*.go' "^//go:build .*\b(${1//,/|})\b" cmd hack pkg test |
    xargs -r -n1 dirname | sort -u | sed 's,^,./,')
  ((${#packages[@]} > 0)) || return 0
  echo "lint: with tags $1: ${packages[*]}"
  "$tools/golangci-lint" run --build-tags "$1" "${packages[@]}"
}

failed=0
"$tools/golangci-lint" run ./... || failed=1
behind kernelnbd,failpoints || failed=1
# What has both tags needs no cgo.
mapfile -t both < <(grep -rlE --include='*.go' '^//go:build kernelnbd && ceph$' test | xargs -r -n1 dirname | sort -u | sed 's,^,./,')
"$tools/golangci-lint" run --build-tags kernelnbd,ceph "${both[@]}" || failed=1
# These need cgo and the headers of librbd.
if [[ -e /usr/include/rbd/librbd.h && -e /usr/include/rados/librados.h ]]; then
  CGO_ENABLED=1 behind ceph,pacific,ceph_preview || failed=1
else
  echo "lint: NOT LINTED HERE: what build tag ceph hides; hack/ceph.sh install adds librbd-dev"
fi
exit $failed
