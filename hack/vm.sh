#!/usr/bin/env bash
# Runs in guest kernels what needs kernel NBD: the tests with build tag kernelnbd of
# every package, found by that tag, in user-mode-linux, those of some on two CPUs (QEMU)
# too; and the scenarios with the real processes, each in one of the two. With
# arguments: only those packages. STRATA_VM_KINDS (uml, qemu, "uml qemu") sets the kinds
# of guests, STRATA_VM_RUN a pattern of tests, STRATA_VM_LONG the long scenarios.
set -euo pipefail
cd "$(dirname "$0")/.."

# Packages whose tests must hold on an SMP kernel too.
smp=(pkg/attach pkg/stage)
# Tests without the tag that need rights which root has in a guest.
declare -A also=([pkg/app]='TestIOFlusher.*')
# Scenarios that must be seen on an SMP kernel; user-mode-linux would show nothing more.
on_two='TestStoreIsKilled|TestControllerAndNodeAreKilled|TestForceDetach'
# Scenarios that take many minutes each: make vm-long runs these, on two CPUs and, for the
# last, in user-mode-linux.
long_on_two='TestStoreHostIsCutOffAndMoves|TestTwoHundredVolumes'
long_on_one='TestKillAtEveryStep'
# What a package's tests may take in a guest, and its memory in MiB.
declare -A limit=([uml]=20m [qemu]=30m)
declare -A memory=([uml]=1024 [qemu]=1536)

# kinds_for prints the kinds of guests for a package.
kinds_for() {
  if [[ -n ${STRATA_VM_KINDS:-} ]]; then
    echo "$STRATA_VM_KINDS"
  elif [[ $1 == test/vm/scenario || " ${smp[*]} " == *" $1 "* ]]; then
    echo uml qemu
  else
    echo uml
  fi
}

# choice prints the flag that chooses tests of a package in a kind of guest.
choice() {
  if [[ -n ${STRATA_VM_RUN:-} ]]; then
    echo "-test.run=$STRATA_VM_RUN"
  elif [[ $1 == test/vm/scenario && -z ${STRATA_VM_KINDS:-} ]]; then
    case $2-${STRATA_VM_LONG:-} in
      qemu-) echo "-test.run=^($on_two)\$" ;;
      qemu-*) echo "-test.run=^($long_on_two)\$" ;;
      *-) echo "-test.skip=^($on_two|$long_on_two|$long_on_one)\$" ;;
      *) echo "-test.run=^($long_on_one)\$" ;;
    esac
  else
    # What needs no guest is run on the host by other tiers.
    local names
    names=$(grep -l '^//go:build.*\bkernelnbd\b' "$1"/*_test.go |
      xargs sed -n 's/^func \(Test[A-Za-z0-9_]*\)(t \*testing\.T).*/\1/p' | paste -sd'|')
    echo "-test.run=^($names${also[$1]+|${also[$1]}})\$"
  fi
}

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
CGO_ENABLED=0 go build -trimpath -o "$bin/strata" ./cmd/strata
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
  for kind in $(kinds_for "$package"); do
    echo
    echo "==> vm: $package in $kind"
    "$bin/guest" -kind "$kind" -timeout "${limit[$kind]}" -memory "${memory[$kind]}" \
      -disk 4096 -disk-fs xfs -dir "$PWD/$package" \
      -env "STRATA_BIN=$bin/strata,STRATA_BIN_FAILPOINTS=$bin/strata-failpoints,STRATA_SEED=${STRATA_SEED:-}" \
      -- "$test" -test.v "$(choice "$package" "$kind")" -test.timeout "${limit[$kind]}" \
      </dev/null || failed+=("$package in $kind")
  done
done

echo
if ((${#failed[@]} > 0)); then
  printf 'vm: failed: %s\n' "${failed[@]}"
  exit 1
fi
echo "vm: all passed: ${packages[*]}"
[[ -n ${STRATA_VM_LONG:-} ]] || echo "vm: NOT RUN HERE, see make vm-long: $long_on_two|$long_on_one"
