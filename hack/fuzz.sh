#!/usr/bin/env bash
# Runs every fuzz target in the repository for FUZZTIME (default 10s), one by one. Targets
# are found, not listed, so that none can be forgotten.
set -euo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp "${TMPDIR:-/tmp}/strata-fuzz.XXXXXX")
trap 'rm -f "$log"' EXIT

# only_time_is_up tells whether a target "failed" only because its time was up, which go
# before 1.27 may take for a failure (go.dev/issue/75804). Whatever a target finds is told
# with the input that it failed with, or as something else than this one line.
only_time_is_up() {
  [[ $(sed -n '/^--- FAIL: /,$p' "$log" | sed 's/(.*)//; s/\t.*//; s/ *$//') == \
    "--- FAIL: $1"$'\n    context deadline exceeded\nFAIL\nexit status 1\nFAIL' ]]
}

ran=0
while IFS=: read -r file target; do
  echo "fuzz: $target in ./$(dirname "$file")"
  # Unbounded minimising of one interesting input would take the whole time.
  go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-10s}" -fuzzminimizetime 10x "./$(dirname "$file")" 2>&1 |
    tee "$log" || only_time_is_up "$target" || exit 1
  ran=$((ran + 1))
done < <(grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' cmd pkg test | sed 's/func //' | sort)

echo "fuzz: $ran targets"
((ran > 0))
