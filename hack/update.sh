#!/usr/bin/env bash
# Regenerates everything that is generated and kept in the repository.
set -euo pipefail
cd "$(dirname "$0")/.."

for script in hack/update-*.sh; do
  echo "update: $script"
  "$script"
done
