#!/usr/bin/env bash
# Runs one of the tiers that are told apart by the names of their tests, at full size.
# Packages are found by those names, so that a new one cannot be forgotten; a tier that
# finds none fails. Tier unit is every test that belongs to no other tier.
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A names=(
  [conformance]='Conformance'
  [model]='Model'
  [crash]='(Crash|PowerCut|Fault|Kill)'
  [scale]='(SevenLinks|ThousandRounds|TwoThousand|HundredClones|Rolling|CostIsFlat|Reflink)'
)

tier=${1:?usage: hack/tier.sh unit|conformance|model|crash|scale}
if [[ $tier == unit ]]; then
  others=$(IFS='|' && echo "${names[*]}")
  exec go test -v -count=1 -timeout 30m -skip "^Test($others)" ./cmd/... ./hack/... ./pkg/...
fi
if [[ -z ${names[$tier]:-} ]]; then
  echo "tier: no tier is called $tier" >&2
  exit 2
fi

mapfile -t packages < <(grep -rlE --include='*_test.go' "^func Test${names[$tier]}" cmd pkg |
  xargs -r -n1 dirname | sort -u | sed 's,^,./,')
if ((${#packages[@]} == 0)); then
  echo "tier: no package has a test of tier $tier" >&2
  exit 1
fi
exec go test -v -count=1 -timeout 60m -run "^Test${names[$tier]}" "${packages[@]}"
