#!/usr/bin/env bash
# Installs what `make test` and `make demo` need beyond Go, git and make, on Debian 12.
# Does nothing, quickly, when all of it is there. Exits with 3 when something is
# missing that it has no right to install.
set -euo pipefail

# package         what needs it
packages=(
  gcc             # the race detector
  libc6-dev       # the race detector
  protobuf-compiler libprotobuf-dev # verify: generated code is current
  btrfs-progs     # unit and vm: what a new mount of it looks like
  e2fsprogs       # demo: mke2fs -d, debugfs, e2fsck
  fio             # interop and demo
  iproute2        # vm: network namespaces as hosts
  kmod            # vm: depmod
  libnbd-bin      # nbdinfo, nbdcopy
  nbdkit          # interop: a proxy in front of the store
  openssl         # vm: a TLS server that is not ours
  procps          # vm: pgrep
  python3-libnbd  # interop: requests that no honest client sends
  qemu-system-x86 # vm: an SMP kernel
  qemu-utils      # qemu-img, qemu-io
  user-mode-linux # vm: a kernel with NBD that boots in two seconds
  xfsprogs        # scale: flatten that shares extents; vm
)

missing=()
for p in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${Status}' "$p" 2>/dev/null || true)
  [[ $status == 'install ok installed' ]] || missing+=("$p")
done
if ((${#missing[@]} == 0)); then
  exit 0
fi

install="apt-get install -y --no-install-recommends ${missing[*]}"
if ((EUID != 0)); then
  echo "setup: missing packages: ${missing[*]}" >&2
  echo "setup: as root, run: $install" >&2
  exit 3
fi
if ! command -v apt-get >/dev/null; then
  echo "setup: this is not Debian; install by hand what these packages hold: ${missing[*]}" >&2
  exit 3
fi
echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq </dev/null
$install -qq </dev/null >/dev/null
