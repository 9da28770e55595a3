#!/usr/bin/env bash
# Installs what `make study`, `make test` and .ci/run need beside Go, a C compiler and CMake, and says what.
# Debian and Ubuntu only; where everything is there already it changes nothing and asks for no rights.
#   scripts/install.sh build|study|test|slurm
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'install: %s\n' "$*" >&2; }

goal=${1:?"say for what: build, study, test or slurm"}
packages=()
fashion=/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz # of the package dataset-fashion-mnist
need() { # need COMMAND PACKAGE: the package, unless the command is there
  command -v "$1" >/dev/null || packages+=("$2")
}

need cmake cmake
command -v cc >/dev/null || command -v gcc >/dev/null || packages+=(gcc libc6-dev)
need git git
need make make
case $goal in
build) ;;
study)
  [ -e "$fashion" ] || packages+=(dataset-fashion-mnist)
  ;;
test)
  command -v c++ >/dev/null || packages+=(g++) # for the harness of the CUDA kernels
  need python3 python3
  python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
  [ -e "$fashion" ] || packages+=(dataset-fashion-mnist)
  ;;
slurm) # a real Slurm for tests; they start it themselves, and are skipped without
  need slurmctld slurm-wlm
  need munged munge
  need setpriv util-linux
  ;;
*)
  say "no such goal: $goal (build, study, test or slurm)"
  exit 2
  ;;
esac

if ! command -v go >/dev/null; then
  say "Go is missing: install Go $(awk '$1 == "go" { print $2 }' go.mod) or newer (https://go.dev/doc/install) and put it in PATH"
  exit 1
fi
[ ${#packages[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  say "missing: ${packages[*]}; this machine has no apt-get, so install them with its own package manager"
  [ "${packages[*]}" = dataset-fashion-mnist ] || exit 1
  say "the data set can be downloaded instead"
  exit 0
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    say "missing: ${packages[*]}; become root or install sudo, then run this again"
    [ "${packages[*]}" = dataset-fashion-mnist ] || exit 1
    say "the data set can be downloaded instead"
    exit 0
  fi
  as_root=(sudo)
fi
say "installing ${packages[*]} with apt-get${as_root:+ (through sudo)}"
# Up to three tries: mirrors fail now and then.
for try in 1 2 3; do
  if "${as_root[@]}" apt-get update -qq >&2 &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2; then
    say "installed ${packages[*]}"
    exit 0
  fi
  say "apt-get failed (try $try of 3)"
  sleep $((try * 5))
done
if [ "${packages[*]}" = dataset-fashion-mnist ]; then
  say "Debian's dataset-fashion-mnist is not to be had; the data set can be downloaded instead"
  exit 0
fi
exit 1
