#!/usr/bin/env bash
# Runs one of the tiers that are told apart by the names of their tests. Packages are
# found by those names, so that a new one cannot be forgotten; a tier that finds none fails.
set -euo pipefail
cd "$(dirname "$0")/.."

tier=${1:?usage: hack/tier.sh conformance|model|crash|scale}
case $tier in
  conformance) names='Conformance' ;;
  model) names='Model' ;;
  scale) names='(SevenLinks|ThousandRounds|TwoThousand|HundredClones|Rolling|CostIsFlat|Reflink)' ;;
  crash) names='(Crash|PowerCut|Fault|Kill)' ;;
  *)
    echo "tier: no tier is called $tier" >&2
    exit 2
    ;;
esac

mapfile -t packages < <(grep -rlE --include='*_test.go' "^func Test${names}" cmd pkg |
  xargs -r -n1 dirname | sort -u | sed 's,^,./,')
if ((${#packages[@]} == 0)); then
  echo "tier: no package has a test of tier $tier" >&2
  exit 1
fi
go test -v -count=1 -timeout 60m -run "^Test${names}" "${packages[@]}"
