#!/usr/bin/env bash
# Runs in guest kernels what needs kernel NBD: the tests with build tag kernelnbd of
# every package, found by that tag, in user-mode-linux, those of some on two CPUs (QEMU)
# too; and the scenarios with the real processes, each in one of the two. With
# arguments: only those packages. STRATA_VM_KINDS (uml, qemu, "uml qemu") sets the kinds
# of guests, STRATA_VM_RUN a pattern of tests.
set -euo pipefail
cd "$(dirname "$0")/.."

# Packages whose tests must hold on an SMP kernel too.
smp=(pkg/attach pkg/stage)
# Tests without the tag that need rights which root has in a guest.
declare -A also=([pkg/app]='TestIOFlusher.*')
# Scenarios that must be seen on an SMP kernel; user-mode-linux would show nothing more.
on_two='TestStoreIsKilled|TestControllerAndNodeAreKilled|TestForceDetach'
on_two+='|TestStoreHostIsCutOffAndMoves|TestTwoHundredVolumes'
# What a calm run takes in a guest, in seconds, of those that differ much from the first
# two; a run may take six times as long.
declare -A calm=([uml]=60 [qemu]=90
  [pkg/stage-uml]=75 [pkg/stage-qemu]=150
  [test/vm/scenario-uml]=320 [test/vm/scenario-qemu]=400)
# Memory of a guest in MiB.
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
    case $2 in
      qemu) echo "-test.run=^($on_two)\$" ;;
      *) echo "-test.skip=^($on_two)\$" ;;
    esac
  else
    # What needs no guest is run on the host by other tiers.
    local names
    names=$(grep -l '^//go:build.*\bkernelnbd\b' "$1"/*_test.go |
      xargs sed -n 's/^func \(Test[A-Za-z0-9_]*\)(t \*testing\.T).*/\1/p' | paste -sd'|')
    echo "-test.run=^($names${also[$1]+|${also[$1]}})\$"
  fi
}

# limit_of prints what the tests of a package may take in a kind of guest, in seconds.
limit_of() { echo $((6 * ${calm[$1-$2]:-${calm[$2]}})); }

# note keeps for the end: what ran, where, how it ended, and since when it ran.
table=()
failed=()
note() {
  table+=("$(printf '%-20s %-8s %-8s %5ds' "$1" "$2" "$3" $((SECONDS - $4)))")
  [[ $3 == passed ]] || failed+=("$1 $2")
}

# log_of prints the file for the output of what ran somewhere.
log_of() { echo "$bin/${1//\//_}.$2.log"; }

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
if (($# == 0)); then
  begin=$SECONDS result=passed
  go test -v -count=1 -timeout 15m ./test/vm/... 2>&1 | tee "$(log_of test/vm host)" || result=FAILED
  note test/vm host $result $begin
fi

for package in "${packages[@]}"; do
  test="$bin/${package//\//_}.test"
  begin=$SECONDS
  if ! CGO_ENABLED=0 go test -trimpath -tags kernelnbd -c -o "$test" "./$package" 2>&1 | tee "$(log_of "$package" build)"; then
    note "$package" build FAILED $begin
    continue
  fi
  for kind in $(kinds_for "$package"); do
    echo
    echo "==> vm: $package in $kind"
    begin=$SECONDS result=passed
    limit=$(limit_of "$package" "$kind")
    # The tests' own limit comes first: it tells which of them hangs, and where.
    "$bin/guest" -kind "$kind" -timeout $((limit + 30))s -memory "${memory[$kind]}" \
      -disk 4096 -disk-fs xfs -dir "$PWD/$package" \
      -env "STRATA_BIN=$bin/strata,STRATA_BIN_FAILPOINTS=$bin/strata-failpoints,STRATA_SEED=${STRATA_SEED:-}" \
      -- "$test" -test.v "$(choice "$package" "$kind")" -test.timeout "${limit}s" \
      </dev/null 2>&1 | tee "$(log_of "$package" "$kind")" || result=FAILED
    note "$package" "$kind" $result $begin
  done
done

echo
printf '%-20s %-8s %-8s %s\n' package where result "  time"
printf '%s\n' "${table[@]}"
if ((${#failed[@]} == 0)); then
  echo "vm: all passed: ${packages[*]}"
  exit
fi
for run in "${failed[@]}"; do
  echo
  echo "==> last of $run"
  # shellcheck disable=SC2086 # two words
  tail -n 60 "$(log_of $run)"
done
echo
echo "==> failures"
printf 'vm: failed: %s\n' "${failed[@]}"
for run in "${failed[@]}"; do
  # shellcheck disable=SC2086 # two words
  hack/failures.sh "$(log_of $run)" "$run" $((2400 / ${#failed[@]}))
done
exit 1
