#!/usr/bin/env bash
# Measures a gateway of Ceph beside rbd-nbd, on one cluster in a guest kernel, if Ceph and
# rbd-nbd are installed here; says so if not. Arguments go to the program (test/bench).
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
for program in ceph-mon ceph-osd rbd rbd-nbd linux.uml; do
  command -v "$program" >/dev/null || missing+=("$program")
done
[[ -e /usr/include/rbd/librbd.h ]] || missing+=(librbd-dev)
if ((${#missing[@]} > 0)); then
  echo
  echo "Ceph: NOT MEASURED HERE, beside rbd-nbd: not installed: ${missing[*]}" \
    "(hack/ceph.sh install; apt-get install rbd-nbd)"
  exit 0
fi

bin=$(mktemp -d "${TMPDIR:-/tmp}/strata-ceph-bench.XXXXXX")
trap 'rm -rf "$bin"' EXIT
go build -trimpath -o "$bin/guest" ./test/vm/cmd/guest
CGO_ENABLED=0 go build -trimpath -o "$bin/bench" ./test/bench
CGO_ENABLED=1 go build -trimpath -tags ceph,pacific,ceph_preview -o "$bin/strata" ./cmd/strata
"$bin/guest" -kind uml -timeout 60m -memory 4096 -- \
  "$bin/bench" -ceph -strata "$bin/strata" -dir /scratch "$@"
