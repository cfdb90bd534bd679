#!/usr/bin/env bash
# Runs in guest kernels what needs kernel NBD: the tests with build tag kernelnbd of
# every package, found by that tag, in user-mode-linux; those of the packages below on
# two CPUs too; then the scenarios with the real processes. With arguments: only those
# packages. STRATA_VM_KINDS (uml, qemu, "uml qemu") limits the kinds of guests.
set -euo pipefail
cd "$(dirname "$0")/.."

# Packages whose tests must also hold on an SMP kernel.
smp=(pkg/attach pkg/stage test/vm/scenario)
# Scenarios that must be seen on an SMP kernel. They run there alone: user-mode-linux
# would show nothing more.
on_two='^(TestStoreIsKilled|TestControllerAndNodeAreKilled|TestStoreHostIsCutOffAndMoves|TestForceDetach|TestTwoHundredVolumes)$'
# What a package's tests may take in a guest; emulation is slow.
declare -A limit=([uml]=15m [qemu]=25m)

read -ra kinds <<<"${STRATA_VM_KINDS:-uml qemu}"
packages=("$@")
if ((${#packages[@]} == 0)); then
  mapfile -t packages < <(grep -rl --include='*_test.go' '^//go:build.*\bkernelnbd\b' cmd pkg test |
    xargs -r -n1 dirname | sort -u)
fi
if ((${#packages[@]} == 0)); then
  echo "vm: no package has a test with build tag kernelnbd" >&2
  exit 1
fi

bin=$(mktemp -d "${TMPDIR:-/tmp}/strata-vm.XXXXXX")
trap 'rm -rf "$bin"' EXIT
go build -trimpath -o "$bin/guest" ./test/vm/cmd/guest
CGO_ENABLED=0 go build -trimpath -tags failpoints -o "$bin/strata-failpoints" ./cmd/strata

# Tests of the guests themselves, which run on the host.
failed=()
if (($# == 0)); then
  go test -v -count=1 -timeout 15m ./test/vm/... || failed+=("test/vm on the host")
fi

for package in "${packages[@]}"; do
  test="$bin/${package//\//_}.test"
  if ! CGO_ENABLED=0 go test -trimpath -tags kernelnbd -c -o "$test" "./$package"; then
    failed+=("$package: does not compile")
    continue
  fi
  for kind in "${kinds[@]}"; do
    [[ $kind == uml || " ${smp[*]} " == *" $package "* ]] || continue
    which=()
    if [[ -n ${STRATA_VM_RUN:-} ]]; then
      which=(-test.run "$STRATA_VM_RUN")
    elif [[ $package == test/vm/scenario && $kind == qemu ]]; then
      which=(-test.run "$on_two")
    elif [[ $package == test/vm/scenario && " ${kinds[*]} " == *" qemu "* ]]; then
      which=(-test.skip "$on_two")
    fi
    echo
    echo "==> vm: $package in $kind"
    "$bin/guest" -kind "$kind" -timeout "${limit[$kind]}" -disk 4096 -disk-fs xfs -dir "$PWD/$package" \
      -env "STRATA_BIN=${STRATA_BIN:-$PWD/bin/strata},STRATA_BIN_FAILPOINTS=$bin/strata-failpoints,STRATA_SEED=${STRATA_SEED:-}" \
      -- "$test" -test.v ${which[@]+"${which[@]}"} -test.timeout "${limit[$kind]}" </dev/null || failed+=("$package in $kind")
  done
done

echo
if ((${#failed[@]} > 0)); then
  printf 'vm: failed: %s\n' "${failed[@]}"
  exit 1
fi
echo "vm: all passed: ${packages[*]} (kinds: ${kinds[*]}; two CPUs: ${smp[*]})"
