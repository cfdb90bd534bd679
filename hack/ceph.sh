#!/usr/bin/env bash
# Runs what needs a real Ceph cluster: installs Debian's packages (as root), builds with
# cgo and the tags that Debian 12's librbd needs, and runs the tests of the backend, the
# scenarios with real gateways and csi-sanity, each package with clusters of its own on
# loopback. Exits with 3 when packages are missing that it may not install.
#
#   hack/ceph.sh [ARGUMENT...]       all of it; arguments go to go test
#   hack/ceph.sh tier [ARGUMENT...]  without what takes minutes a test; it ends with the
#                                    names of what it has left out
#   hack/ceph.sh long [ARGUMENT...]  what that leaves out, and 500 rounds of snapshot,
#                                    restore and deletion of the parent
#   hack/ceph.sh install             only installs
set -euo pipefail
cd "$(dirname "$0")/.."

# The tags belong together: go-ceph must be told which librbd it meets.
tags=ceph,pacific,ceph_preview

# package        what needs it
packages=(
  ceph-common    # ceph, rados, rbd
  ceph-mon       # the monitor
  ceph-osd       # the OSD
  gcc            # cgo
  libc6-dev      # cgo
  librados-dev   # go-ceph
  librbd-dev     # go-ceph
)

install() {
  local missing=() p status
  for p in "${packages[@]}"; do
    status=$(dpkg-query -W -f='${Status}' "$p" 2>/dev/null || true)
    [[ $status == 'install ok installed' ]] || missing+=("$p")
  done
  ((${#missing[@]} > 0)) || return 0
  local command="apt-get install -y --no-install-recommends ${missing[*]}"
  if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    echo "ceph: missing packages: ${missing[*]}" >&2
    echo "ceph: as root on Debian, run: $command" >&2
    exit 3
  fi
  echo "ceph: installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq </dev/null
  $command -qq </dev/null >/dev/null
}

install
[[ ${1:-} != install ]] || exit 0

export CGO_ENABLED=1
bin=$(mktemp -d "${TMPDIR:-/tmp}/strata-ceph.XXXXXX")
trap 'rm -rf "$bin"' EXIT
go build -tags "$tags" -o "$bin/strata" ./cmd/strata
export STRATA_CEPH_BIN=$bin/strata

# Tests that take minutes: rounds, kills at random, load of long, restarts of daemons.
long='^Test(Rounds|KilledAnywhere|ConformanceLargeObjects|DaemonsAreRestartedUnderLoad|ChainIsFlattenedUnderLoad|GatewayIsKilledWhileItFlattens)$'
packages_tested=(./pkg/store/rbd/... ./test/ceph/... ./test/sanity)

mode=${1:-}
[[ $mode != tier && $mode != long ]] || shift
case $mode in
  tier)
    go test -tags "$tags" -v -count=1 -timeout 40m -skip "$long" "$@" "${packages_tested[@]}"
    echo "ceph: not run here, but by hack/ceph.sh long: $long and 500 rounds"
    ;;
  long) STRATA_CEPH_ROUNDS=500 go test -tags "$tags" -v -count=1 -timeout 90m -run "$long" "$@" "${packages_tested[@]}" ;;
  *) go test -tags "$tags" -v -count=1 -timeout 40m "$@" "${packages_tested[@]}" ;;
esac
