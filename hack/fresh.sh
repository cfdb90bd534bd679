#!/usr/bin/env bash
# Proves HEAD on a machine that has nothing: debootstraps a Debian 12 root with only make
# and git, gives it the Go toolchain of this machine, clones HEAD into it, and runs a
# command there with an empty home, module cache and environment.
#
#   hack/fresh.sh                       make demo and make test, each twice
#   hack/fresh.sh 'make unit'           anything else
#   STRATA_FRESH=DIR                    where the root is made; default TMPDIR or /tmp
#   STRATA_FRESH_MIRROR=URL             default: the first source of this machine's apt
#   STRATA_FRESH_TIMEOUT=3h             the longest that it may take
#
# Mounts and processes live in namespaces of their own and end with them; the root is
# removed in any case. How to reach the network (apt's sources and proxies, names,
# certificates, Go's proxy) is taken over from this machine. Needs root.
set -euo pipefail

# network lists the variables that say how to reach it.
network=(http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY)
golang=(GOPROXY GOFLAGS GOSUMDB GONOSUMDB GONOPROXY GOPRIVATE GOINSECURE)

# mirror prints where this machine gets Debian from; nothing leaves it to debootstrap.
mirror() {
  local found=
  if [[ $(. /etc/os-release && echo "${VERSION_CODENAME:-}") == bookworm ]]; then
    found=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
      grep -oE '^(URIs:|deb )[^#]*' | grep -oE 'https?://[^ ]*debian/?( |$)' | head -n1 || true)
  fi
  echo "$found"
}

# take_over copies to the root how this machine reaches the network.
take_over() {
  local root=$1
  cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" 2>/dev/null || true
  # Only what concerns fetching: hooks of this machine's packages would fail there.
  apt-config dump | grep '^Acquire::' >"$root/etc/apt/apt.conf.d/99host" || true
  if [[ $(. /etc/os-release && echo "${VERSION_CODENAME:-}") == bookworm ]]; then
    rm -f "$root/etc/apt/sources.list"
    local part
    for part in sources.list sources.list.d keyrings trusted.gpg.d; do
      [[ ! -e /etc/apt/$part ]] || cp -rL "/etc/apt/$part" "$root/etc/apt/"
    done
  fi
}

# inside runs in the namespaces; the process that waits for it removes the root.
inside() {
  local root=$1 repo=$2 command=$3 goroot v
  local from=${STRATA_FRESH_MIRROR:-$(mirror)}
  trap 'exit 143' TERM INT
  goroot=$(go env GOROOT)
  echo "fresh: debootstrap in $root"
  debootstrap --variant=minbase --include=make,git,ca-certificates bookworm "$root" \
    ${from:+"$from"} >"$root.log" || {
    tail -n 20 "$root.log" >&2
    exit 1
  }
  take_over "$root"
  mkdir -p "$root/usr/local/go" "$root/src"
  mount --bind -o ro "$goroot" "$root/usr/local/go"
  mount -t proc proc "$root/proc"
  mount --rbind /sys "$root/sys"
  mount --rbind /dev "$root/dev"
  git -c safe.directory='*' clone -q "$repo" "$root/src/strata"
  local env=(HOME=/root LANG=C.UTF-8 TERM="${TERM:-dumb}"
    PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
  for v in "${network[@]}"; do
    [[ -z ${!v:-} ]] || env+=("$v=${!v}")
  done
  for v in "${golang[@]}"; do
    [[ -z $(go env "$v") ]] || env+=("$v=$(go env "$v")")
  done
  echo "fresh: Debian $(cat "$root/etc/debian_version"), $(chroot "$root" dpkg-query -W | wc -l) packages," \
    "$(git -C "$root/src/strata" -c safe.directory='*' log -1 --format='%h "%s"')"
  echo "fresh: $command"
  # The first process of a PID namespace must stay: its end ends all the others.
  (cd / && exec env -i "${env[@]}" chroot "$root" bash -c "cd /src/strata && $command") </dev/null &
  wait $!
}

if [[ ${1:-} == --inside ]]; then
  inside "$2" "$3" "$4"
  exit
fi

if ((EUID != 0)); then
  echo "fresh: needs root, for debootstrap and mounts: sudo -E make fresh" >&2
  exit 3
fi
command=${*:-make demo && make demo && make test && make test}
if ! command -v debootstrap >/dev/null; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
fi
repo=$(cd "$(dirname "$0")/.." && pwd)
if ! git -C "$repo" diff --quiet HEAD; then
  echo "fresh: what is not committed is not tried" >&2
fi

dir=$(mktemp -d "${STRATA_FRESH:-${TMPDIR:-/tmp}}/strata-fresh.XXXXXX")
running=
finish() {
  [[ -z $running ]] || kill "$running" 2>/dev/null || true
  wait
  rm -rf --one-file-system "$dir" # nothing is mounted here outside the namespace
}
trap finish EXIT
trap 'exit 130' INT TERM
SECONDS=0
status=0
timeout -k 10 "${STRATA_FRESH_TIMEOUT:-3h}" \
  unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
  "$repo/hack/fresh.sh" --inside "$dir/root" "$repo" "$command" &
running=$!
wait "$running" || status=$?
running=
echo "fresh: exit status $status after $((SECONDS / 60)) min $((SECONDS % 60)) s"
exit "$status"
