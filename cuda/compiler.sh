#!/bin/bash
# Prints the path of an nvcc, installing it first where there is none: compiler.sh 13|11. Exit code 75 if it cannot be had now.
#   13: Python wheels into build/cuda13 (sm_80, sm_90a; PTX that a driver of CUDA 13.0 loads)
#   11: Debian's nvidia-cuda-toolkit 11.8 (sm_70) with g++ 11, from the non-free section: 0.9 GB to fetch, unpacked into build/cuda11
set -euo pipefail
cd "$(dirname "$0")/.."
find13() { find build/cuda13 -path '*/cu13/bin/nvcc' 2>/dev/null | head -1; }
find11() { for n in build/cuda11/root/usr/lib/nvidia-cuda-toolkit/bin/nvcc /usr/bin/nvcc /usr/local/cuda-11.8/bin/nvcc; do [ -x "$n" ] && "$n" --version | grep -q 'release 11\.8' && readlink -f "$n" && return; done; true; }

install13() {
  rm -rf build/cuda13
  python3 -m venv build/cuda13 >&2 &&
    build/cuda13/bin/pip install --quiet --disable-pip-version-check --no-deps 'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-runtime==13.0.*' \
      'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-cccl==13.0.*' 'nvidia-nvtx==13.0.*' >&2
}

# Debian's packages, unpacked into build/cuda11: nothing of the machine changes. The added source must name the keyring that the
# machine's own Debian source names, or apt refuses it.
install11() {
  local here=$PWD/build/cuda11 d
  field() { cat /etc/apt/sources.list.d/*.sources 2>/dev/null | sed -n "s/^$1: *//p" | head -1; }
  [ -n "$(field URIs)" ] || { echo "nvcc 11.8: no Debian source is configured here; install nvidia-cuda-toolkit 11.8 by hand" >&2; return 1; }
  rm -rf "$here"
  mkdir -p "$here"/{lists/partial,cache/archives/partial,debs,parts,root}
  echo "deb [signed-by=$(field Signed-By)] $(field URIs) $(. /etc/os-release && echo "$VERSION_CODENAME") main contrib non-free" > "$here/sources.list"
  local apt=(apt-get -o Dir::Etc::sourcelist="$here/sources.list" -o Dir::Etc::sourceparts="$here/parts" -o Dir::State::lists="$here/lists" -o Dir::Cache="$here/cache")
  "${apt[@]}" update >&2 &&
    (cd "$here/debs" && "${apt[@]}" download nvidia-cuda-toolkit nvidia-cuda-dev libnvvm4 libcu++-dev gcc-11 g++-11 cpp-11 libstdc++-11-dev libgcc-11-dev >&2) || return 1
  for d in "$here"/debs/*.deb; do dpkg -x "$d" "$here/root" || return 1; done
  rm -rf "$here/debs"
}

# The compiler's own list of places, made to point into the unpacked tree.
relocate11() {
  local root=$PWD/build/cuda11/root toolkit=$PWD/build/cuda11/root/usr/lib/nvidia-cuda-toolkit
  [ -d "$root" ] || return 0
  rm -f "$toolkit/bin/nvcc.profile" "$toolkit/bin/g++" "$toolkit/bin/gcc"
  printf 'NVVMIR_LIBRARY_DIR = %s/libdevice\nPATH += %s/bin:%s/usr/bin:\nLD_LIBRARY_PATH += %s/usr/lib/x86_64-linux-gnu:\nINCLUDES += -I%s/usr/include $(_SPACE_)\n' \
    "$toolkit" "$toolkit" "$root" "$root" "$root" > "$toolkit/bin/nvcc.profile"
  ln -sf "$root/usr/bin/g++-11" "$toolkit/bin/g++"
  ln -sf "$root/usr/bin/gcc-11" "$toolkit/bin/gcc"
}

version=${1:-}
case $version in 13 | 11) ;; *) echo "compiler.sh: which compiler? 13 or 11" >&2; exit 2 ;; esac
for try in 1 2 3; do # mirrors fail now and then
  [ -z "$("find$version")" ] || break
  "install$version" && break
  echo "nvcc $version cannot be fetched (try $try of 3)" >&2
  rm -rf "build/cuda$version"
  sleep $((try * 5))
done
[ "$version" = 13 ] || relocate11
nvcc=$("find$version")
[ -n "$nvcc" ] || { echo "nvcc $version cannot be had now: see the messages above; with one in the usual places it is taken from there" >&2; exit 75; }
readlink -f "$nvcc"
