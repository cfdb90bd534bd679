#!/usr/bin/env bash
# Checks what needs no test: formatting, vet, go.mod, generated code, shell scripts.
# The repository is left as it was: generators run in a copy.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
check() { # check NAME COMMAND…
  local name=$1
  shift
  if "$@"; then
    echo "ok      $name"
  else
    echo "FAIL    $name"
    failed=1
  fi
}

formatted() {
  local bad
  bad=$(gofmt -l cmd hack pkg test)
  [[ -z $bad ]] || { echo "not formatted: $bad"; return 1; }
}

scripts() {
  local script
  for script in hack/*.sh .ci/run; do
    bash -n "$script" && [[ -x $script ]] || { echo "$script: syntax or mode"; return 1; }
  done
}

generated() {
  local copy
  copy=$(mktemp -d)
  # shellcheck disable=SC2064 # the path is wanted as it is now
  trap "rm -rf '$copy'" RETURN
  mkdir "$copy/before"
  cp -a cmd pkg test hack go.mod go.sum "$copy/before"
  cp -a "$copy/before" "$copy/after"
  (cd "$copy/after" && hack/update.sh >"$copy/log" 2>&1) || { cat "$copy/log"; return 1; }
  diff -r -q "$copy/before" "$copy/after" || { echo "run: make update"; return 1; }
}

static() {
  CGO_ENABLED=0 go build -o /dev/null ./cmd/strata
}

check "format" formatted
check "vet" go vet ./...
check "go.mod is tidy" go mod tidy -diff
check "modules are what go.sum says" go mod verify
check "builds without cgo" static
check "generated code is current" generated
check "scripts" scripts
exit $failed
