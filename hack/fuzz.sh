#!/usr/bin/env bash
# Runs every fuzz target in the repository for FUZZTIME (default 10s), one by one. Targets
# are found, not listed, so that none can be forgotten.
set -euo pipefail
cd "$(dirname "$0")/.."

ran=0
while IFS=: read -r file target; do
  echo "fuzz: $target in ./$(dirname "$file")"
  # Unbounded minimising of one interesting input would take the whole time.
  go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-10s}" -fuzzminimizetime 10x "./$(dirname "$file")"
  ran=$((ran + 1))
done < <(grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' cmd pkg test | sed 's/func //' | sort)

echo "fuzz: $ran targets"
((ran > 0))
