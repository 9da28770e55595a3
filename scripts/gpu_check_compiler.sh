#!/bin/bash
# Prints the path of an nvcc, installing it first where there is none: gpu_check_compiler.sh 13|11
#   13: Python wheels into build/cuda13 (sm_80, sm_90a; PTX that a driver of CUDA 13.0 loads)
#   11: Debian's nvidia-cuda-toolkit 11.8 (sm_70), from the non-free section; needs root and 1.6 GB
set -euo pipefail
cd "$(dirname "$0")/.."
find13() { find build/cuda13 -path '*/cu13/bin/nvcc' 2>/dev/null | head -1; }
find11() { for n in /usr/bin/nvcc /usr/local/cuda-11.8/bin/nvcc; do [ -x "$n" ] && "$n" --version | grep -q 'release 11\.8' && echo "$n" && return; done; true; }
case ${1:?13 or 11} in
  13)
    if [ -z "$(find13)" ]; then
      python3 -m venv build/cuda13 >&2
      build/cuda13/bin/pip install --quiet --disable-pip-version-check --no-deps 'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-cccl==13.0.*' >&2
    fi
    readlink -f "$(find13)" ;;
  11)
    if [ -z "$(find11)" ]; then
      # The added source must name the keyring that the machine's own Debian source names, or apt refuses the whole list.
      source=$(grep -rhoE '^URIs: *\S+' /etc/apt/sources.list.d/*.sources 2>/dev/null | awk '{print $2}' | head -1)
      keyring=$(grep -rhoE '^Signed-By: *\S+' /etc/apt/sources.list.d/*.sources 2>/dev/null | awk '{print $2}' | head -1)
      suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
      [ -n "$source" ] || { echo "nvcc 11.8: no Debian source is configured; install nvidia-cuda-toolkit by hand" >&2; exit 1; }
      printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: contrib non-free\nSigned-By: %s\n' "$source" "$suite" "$keyring" > /etc/apt/sources.list.d/anynetx-cuda.sources
      apt-get update >&2 && apt-get install -y --no-install-recommends nvidia-cuda-toolkit >&2
    fi
    find11 ;;
esac
