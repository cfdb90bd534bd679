#!/usr/bin/env bash
# Checks the Helm chart, or brings what is derived from it up to date.
#
#   hack/chart.sh test     lint, goldens, strict types, schema, rights, manifests, examples
#   hack/chart.sh update   vendored CRDs, goldens, list of rights, plain manifests
#   hack/chart.sh crds     compare the vendored CRDs with their module
set -euo pipefail
cd "$(dirname "$0")/.."
self=$PWD/hack/chart.sh
cd test/chart

module=github.com/kubernetes-csi/external-snapshotter/client/v8
vendored=../../charts/strata/files/snapshot-crds

# The CRDs of groups are left out: the driver does not serve them.
crds() { # crds TARGET: copies them out of the module's own archive
  local from
  from=$(go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  [[ -n $from ]] || { echo "chart: $module cannot be had" >&2; return 1; }
  install -m 0644 "$from"/config/crd/snapshot.storage.k8s.io_*.yaml "$from/LICENSE" "$1/"
}

case ${1:-} in
  test)
    "$self" crds
    exec go test -v -count=1 ./...
    ;;
  crds)
    fresh=$(mktemp -d)
    trap 'rm -rf "$fresh"' EXIT
    crds "$fresh"
    diff -r --exclude README.md "$fresh" "$vendored" || { echo "chart: run hack/chart.sh update" >&2; exit 1; }
    ;;
  update)
    rm -f "$vendored"/*.yaml
    crds "$vendored"
    STRATA_UPDATE=1 go test -count=1 ./...
    ;;
  *)
    sed -n '2,7s/^# \{0,1\}//p' "$self" >&2
    exit 2
    ;;
esac
