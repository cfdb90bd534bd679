#!/usr/bin/env bash
# Runs the tests on a real Kubernetes (test/e2e): builds its programs once per state of
# their module, and starts the tests in namespaces of their own, where all that they
# start ends with them. As root.
#
#   hack/e2e.sh                        all scenarios and a core of the upstream suite
#   hack/e2e.sh -test.run TestDrain    flags of the test binary: some of them
#   hack/e2e.sh upstream               the whole upstream suite; its table: bin/upstream.md
#   hack/e2e.sh build                  only build the programs of Kubernetes
#
# STRATA_E2E_KEEP=1 keeps the folder with all logs, which is named when a run fails.
# STRATA_E2E_HOLD=1 holds the cluster after the tests until an interrupt, and says how to
# reach it. STRATA_E2E_ATTACH=FOLDER runs tests, built anew, on the cluster that is held
# and has its files there; several may run at once. STRATA_E2E_JOBS (2) bounds the build, STRATA_E2E_TIMEOUT (75m) the run.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

if ((EUID != 0)); then
  echo "e2e: needs root, for namespaces, containers and network interfaces" >&2
  exit 3
fi

kubernetes=$(cd test/e2e && go list -m -f '{{with .Replace}}{{.Version}}{{else}}{{.Version}}{{end}}' k8s.io/kubernetes)
key=$({
  cat test/e2e/go.mod test/e2e/go.sum test/e2e/cmd/*/*.go test/e2e/upstream/*.go
  go version
} | sha256sum | cut -c1-16)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/strata/e2e"
bin="$cache/$key"

# build_programs builds into a folder that appears complete.
build_programs() {
  [[ ! -e $bin ]] || return 0
  echo "e2e: building Kubernetes $kubernetes and its sidecars; from cold this takes 10 to 30 minutes"
  local begin=$SECONDS tmp version="${kubernetes#v}"
  mkdir -p "$cache"
  tmp=$(mktemp -d "$cache/.build.XXXXXX")
  local rest="${version#*.}" base=k8s.io/component-base/version
  (
    cd test/e2e
    export CGO_ENABLED=0
    mapfile -t tools < <(go list tool)
    go build -p "${STRATA_E2E_JOBS:-2}" -trimpath -o "$tmp/" \
      -ldflags "-s -w -X $base.gitVersion=$kubernetes -X $base.gitMajor=${version%%.*} -X $base.gitMinor=${rest%%.*}" \
      "${tools[@]}" ./cmd/...
    go test -p "${STRATA_E2E_JOBS:-2}" -trimpath -ldflags '-s -w' -c -o "$tmp/upstream.test" ./upstream
  )
  mv "$tmp/server" "$tmp/etcd" # its main package is the root of its module
  # Other states of the module, and builds that were broken off, are of no use any more.
  find "$cache" -mindepth 1 -maxdepth 1 -type d ! -path "$tmp" -exec rm -rf {} +
  mv "$tmp" "$bin"
  echo "e2e: programs built in $((SECONDS - begin)) s"
}

# install_packages installs what hack/setup.sh does not ask for, and what both need.
install_packages() {
  local missing=() p
  for p in busybox-static containerd containernetworking-plugins cpio e2fsprogs fio iproute2 kmod qemu-system-x86 qemu-utils runc; do
    [[ $(dpkg-query -W -f='${Status}' "$p" 2>/dev/null || true) == 'install ok installed' ]] || missing+=("$p")
  done
  ((${#missing[@]})) || return 0
  echo "e2e: installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq </dev/null
  apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >/dev/null
}

# build_images builds two versions of strata: the chart's, and one to upgrade to.
build_images() {
  local version
  mkdir "$work/strata"
  for version in "$app" "$app-next"; do
    CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$version" -o "$work/strata/strata" ./cmd/strata
    go run ./hack/image -strata "$work/strata/strata" -name ghcr.io/strata-csi/strata -version "$version" \
      -created 0 -out "$work/strata/$version.tar" >/dev/null
  done
  mv "$work/strata/$app.tar" "$work/strata/current.tar"
  mv "$work/strata/$app-next.tar" "$work/strata/next.tar"
}

install_packages
build_programs
[[ ${1:-} != build ]] || exit 0

args=("$@")
timeout="${STRATA_E2E_TIMEOUT:-75m}"
export STRATA_E2E_UPSTREAM=
if [[ ${1:-} == upstream ]]; then
  args=(-test.run '^TestUpstreamAll$' "${@:2}")
  timeout="${STRATA_E2E_TIMEOUT:-12h}"
  STRATA_E2E_UPSTREAM=1
fi
app=$(sed -n 's/^appVersion: *"\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' charts/strata/Chart.yaml)
export STRATA_E2E_BIN="$bin" STRATA_E2E_SOURCE="$PWD" STRATA_E2E_NEXT="$app-next"

# attach runs tests in the namespaces of a cluster that is held.
attach() {
  work=$(realpath "$STRATA_E2E_ATTACH")
  local holder test result=0
  holder=$(pgrep -o -f "^$work/e2e.test ") || {
    echo "e2e: no cluster is held in $work" >&2
    exit 3
  }
  test=$(mktemp "$work/attached.XXXXXX")
  (cd test/e2e && CGO_ENABLED=0 go test -trimpath -c -o "$test" ./scenario)
  export STRATA_E2E_WORK="$work"
  # shellcheck disable=SC2016 # the inner shell expands it
  nsenter -t "$holder" --net --mount --pid \
    bash -c 'cd "$STRATA_E2E_SOURCE/test/e2e/scenario" && "$@"; exit $?' -- \
    "$test" -test.v -test.timeout "$timeout" "${args[@]}" </dev/null || result=$?
  rm -f "$test"
  exit "$result"
}
[[ -z ${STRATA_E2E_ATTACH:-} ]] || attach

work=$(mktemp -d "${TMPDIR:-/tmp}/strata-e2e.XXXXXX")
build_images
(
  cd test/e2e
  export CGO_ENABLED=0
  go test -trimpath ./cluster ./figures ./image ./process ./report ./rights ./verdict
  go test -trimpath -c -o "$work/e2e.test" ./scenario
)
result=0
# The shell is the first process of the namespace: it collects orphans, and all others
# end with it.
# shellcheck disable=SC2016 # the inner shell expands it
STRATA_E2E_WORK="$work" \
  unshare --net --mount --pid --fork --mount-proc --kill-child=KILL \
  bash -c 'cd "$STRATA_E2E_SOURCE/test/e2e/scenario" && "$@"; exit $?' -- \
  "$work/e2e.test" -test.v -test.timeout "$timeout" "${args[@]}" </dev/null || result=$?
# A run that was killed leaves empty control groups behind.
for group in /sys/fs/cgroup/*/"strata-e2e-${work##*/}"; do
  [[ ! -d $group ]] || find "$group" -depth -type d -exec rmdir {} + || true
done
if [[ -n $STRATA_E2E_UPSTREAM && -e $work/upstream/upstream.md ]]; then
  mkdir -p bin
  cp "$work/upstream/upstream.md" bin/upstream.md
fi
if ((result == 0)) && [[ -z ${STRATA_E2E_KEEP:-} ]]; then
  rm -rf "$work"
else
  echo "e2e: logs are in $work"
fi
exit "$result"
