#!/usr/bin/env bash
# Runs the tests on a real Kubernetes (test/e2e): builds its programs once per state of
# their module, and starts the tests in namespaces of their own, where all that they
# start ends with them. Arguments go to the test binary: hack/e2e.sh -test.run TestFlow.
#
#   hack/e2e.sh build     only build the programs of Kubernetes
#
# STRATA_E2E_KEEP=1 keeps the folder with all logs, which is named when a run fails.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

kubernetes=$(cd test/e2e && go list -m -f '{{with .Replace}}{{.Version}}{{else}}{{.Version}}{{end}}' k8s.io/kubernetes)
key=$({
  cat test/e2e/go.mod test/e2e/go.sum test/e2e/cmd/*/*.go
  go version
} | sha256sum | cut -c1-16)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/strata/e2e"
bin="$cache/$key"

# build_programs builds into a folder that appears complete.
build_programs() {
  [[ -e $bin ]] && return
  echo "e2e: building Kubernetes $kubernetes and its sidecars; from cold this takes 10 to 30 minutes"
  local begin=$SECONDS tmp
  mkdir -p "$cache"
  tmp=$(mktemp -d "$cache/.build.XXXXXX")
  local version="${kubernetes#v}"
  local major="${version%%.*}" rest="${version#*.}"
  local base=k8s.io/component-base/version
  (
    cd test/e2e
    mapfile -t tools < <(go list tool)
    CGO_ENABLED=0 go build -p "${STRATA_E2E_JOBS:-2}" -trimpath -o "$tmp/" \
      -ldflags "-s -w -X $base.gitVersion=$kubernetes -X $base.gitMajor=$major -X $base.gitMinor=${rest%%.*}" \
      "${tools[@]}" ./cmd/...
  )
  mv "$tmp/server" "$tmp/etcd" # its main package is the root of its module
  # Other states of the module are of no use any more.
  find "$cache" -mindepth 1 -maxdepth 1 -type d ! -path "$tmp" -exec rm -rf {} +
  mv "$tmp" "$bin"
  echo "e2e: programs built in $((SECONDS - begin)) s"
}

# packages that Debian has and hack/setup.sh does not ask for.
install_packages() {
  local missing=() p
  for p in containerd runc containernetworking-plugins busybox-static cpio fio qemu-system-x86 qemu-utils e2fsprogs iproute2 kmod; do
    [[ $(dpkg-query -W -f='${Status}' "$p" 2>/dev/null || true) == 'install ok installed' ]] || missing+=("$p")
  done
  ((${#missing[@]})) || return 0
  echo "e2e: installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq </dev/null
  apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >/dev/null
}

if ((EUID != 0)); then
  echo "e2e: needs root, for namespaces, containers and network interfaces" >&2
  exit 3
fi
install_packages
build_programs
[[ ${1:-} != build ]] || exit 0

work=$(mktemp -d "${TMPDIR:-/tmp}/strata-e2e.XXXXXX")
# Two versions of strata: the chart's, and one to upgrade to.
app=$(sed -n 's/^appVersion: *"\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' charts/strata/Chart.yaml)
mkdir "$work/strata"
for version in "$app" "$app-next"; do
  CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$version" -o "$work/strata/strata" ./cmd/strata
  go run ./hack/image -strata "$work/strata/strata" -name ghcr.io/strata-csi/strata -version "$version" \
    -created 0 -out "$work/strata/$version.tar"
done
mv "$work/strata/$app.tar" "$work/strata/current.tar"
mv "$work/strata/$app-next.tar" "$work/strata/next.tar"
(cd test/e2e && CGO_ENABLED=0 go test -trimpath -c -o "$work/e2e.test" ./scenario)
result=0
# The shell is the first process of the namespace: it collects orphans, and all others
# end with it.
# shellcheck disable=SC2016 # the inner shell expands it
STRATA_E2E_BIN="$bin" STRATA_E2E_WORK="$work" STRATA_E2E_SOURCE="$PWD" STRATA_E2E_NEXT="$app-next" \
  unshare --net --mount --pid --fork --mount-proc --kill-child=KILL \
  bash -c 'cd "$STRATA_E2E_SOURCE/test/e2e/scenario" && "$@"; exit $?' -- \
  "$work/e2e.test" -test.v -test.timeout "${STRATA_E2E_TIMEOUT:-60m}" "$@" </dev/null || result=$?
if ((result == 0)) && [[ -z ${STRATA_E2E_KEEP:-} ]]; then
  rm -rf "$work"
else
  echo "e2e: logs are in $work"
fi
exit "$result"
