#!/usr/bin/env bash
# Runs every tier, one after the other, even after one has failed, and ends with a table.
# Exit 0 means: every tier ran and passed. A tier is skipped only if this machine lacks
# something that could not be installed here; as root that is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

tiers=(verify lint unit race conformance model crash scale fuzz chart image-test interop vm)

logs=$(mktemp -d "${TMPDIR:-/tmp}/strata-test.XXXXXX")
trap 'rm -rf "$logs"' EXIT

setup=0
hack/setup.sh || setup=$?
if ((setup == 3)) && ((EUID != 0)); then
  # What is missing is skipped by name, what is there is run.
  export STRATA_ALLOW_SKIP=1
elif ((setup != 0)); then
  echo "test: hack/setup.sh failed" >&2
  exit 1
fi

failed=()
table=()
for tier in "${tiers[@]}"; do
  echo
  echo "==> $tier"
  begin=$SECONDS
  result=passed
  make --no-print-directory "$tier" </dev/null 2>&1 | tee "$logs/$tier" || result=FAILED
  [[ $result == passed ]] || failed+=("$tier")
  table+=("$(printf '%-12s %-8s %5ds' "$tier" "$result" $((SECONDS - begin)))")
done

# What is read first of a long output is its end: the failures come after everything else.
for tier in "${failed[@]}"; do
  echo
  echo "==> last of $tier"
  tail -n 60 "$logs/$tier"
done

echo
echo "==> summary"
# go test -v tells a test's reason before its line of result.
skipped=$(awk '
  $1 == "===" { test = $3 }
  /^ +[a-z0-9_]+\.go:[0-9]+: / { said[test] = $0; sub(/^ +[^ ]+ /, "", said[test]) }
  $1 == "---" && $2 == "SKIP:" { print "  " $3 ": " said[$3] }
' "$logs"/* | sort -u)
if [[ -n $skipped ]]; then
  printf 'tests skipped:\n%s\n' "$skipped"
else
  echo "tests skipped: none"
fi
echo "tiers run: ${tiers[*]}"
echo "tiers skipped: none"
printf 'tier         result    time\n'
printf '%s\n' "${table[@]}"
if ((${#failed[@]} == 0)); then
  echo "test: all ${#tiers[@]} tiers passed in ${SECONDS}s"
  exit
fi
echo
echo "==> failures"
for tier in "${failed[@]}"; do
  hack/failures.sh "$logs/$tier" "$tier" $((3000 / ${#failed[@]}))
done
echo "test: ${#failed[@]} of ${#tiers[@]} tiers failed: ${failed[*]}"
exit 1
