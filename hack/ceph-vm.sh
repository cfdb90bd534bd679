#!/usr/bin/env bash
# Runs in a guest kernel what needs Ceph and kernel NBD, each package with a cluster of its
# own inside the guest: the scenarios with real gateway, controller and node processes, and
# the whole of csi-sanity. With arguments: only those packages. STRATA_VM_RUN is a pattern
# of tests. hack/ceph.sh and hack/setup.sh install what is needed.
set -euo pipefail
cd "$(dirname "$0")/.."

hack/setup.sh
hack/ceph.sh install

packages=("$@")
((${#packages[@]} > 0)) || packages=(test/vm/scenario test/sanity)
# Six times what a calm run takes, in seconds.
declare -A limit=([test/vm/scenario]=2400 [test/sanity]=1800)

bin=$(mktemp -d "${TMPDIR:-/tmp}/strata-ceph-vm.XXXXXX")
trap 'rm -rf "$bin"' EXIT
go build -trimpath -o "$bin/guest" ./test/vm/cmd/guest
# The guest has the host's libraries, librbd among them. The tests need no cgo.
CGO_ENABLED=1 go build -trimpath -tags ceph,pacific,ceph_preview -o "$bin/strata" ./cmd/strata

table=()
failed=()
for package in "${packages[@]}"; do
  test=$bin/${package//\//_}.test
  log=$test.log
  begin=$SECONDS result=passed
  echo
  echo "==> ceph-vm: $package"
  CGO_ENABLED=0 go test -trimpath -tags kernelnbd,ceph -c -o "$test" "./$package"
  # A memory store's data are in the guest's memory too.
  "$bin/guest" -kind uml -timeout $((limit[$package] + 30))s -memory 6144 -dir "$PWD/$package" \
    -env "STRATA_BIN=$bin/strata,STRATA_SEED=${STRATA_SEED:-}" \
    -- "$test" -test.v "-test.run=${STRATA_VM_RUN:-Ceph}" -test.timeout "${limit[$package]}s" \
    </dev/null 2>&1 | tee "$log" || result=FAILED
  [[ $result == passed ]] || failed+=("$package")
  table+=("$(printf '%-20s %-8s %5ds' "$package" "$result" $((SECONDS - begin)))")
done

echo
grep -hE '^csi-sanity |I/O goes on|the cluster is ready' "$bin"/*.log || true
printf '%-20s %-8s %s\n' package result "  time"
printf '%s\n' "${table[@]}"
if ((${#failed[@]} == 0)); then
  echo "ceph-vm: all passed: ${packages[*]}"
  exit
fi
for package in "${failed[@]}"; do
  echo
  echo "==> failures of $package"
  hack/failures.sh "$bin/${package//\//_}.test.log" "$package" $((2400 / ${#failed[@]}))
done
echo "ceph-vm: failed: ${failed[*]}"
exit 1
