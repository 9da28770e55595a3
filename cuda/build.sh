#!/bin/bash
# Builds libanx_cuda.so: cuda/build.sh [13|11] [output folder]. Links the CUDA runtime in, so that a machine needs only its driver. Fails if
# a kernel spills registers or has a stack frame that is not on the list of cold kernels; exit code 75 if the compiler cannot be fetched now.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:-13}
out=${2:-build/cuda$version-lib}
mkdir -p "$out/objects"
nvcc=$(cuda/compiler.sh "$version")
case $version in
  13) targets=(-gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a -gencode arch=compute_80,code=compute_80) ;;
  11) targets=(-gencode arch=compute_70,code=sm_70 -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 -gencode arch=compute_70,code=compute_70) ;;
esac
root=$(dirname "$(dirname "$nvcc")")
libraries=$(find "$root/lib" "$root/lib64" "$root/../x86_64-linux-gnu" /usr/lib/x86_64-linux-gnu -name libcudart_static.a -printf '%h\n' 2>/dev/null | head -1 || true)
flags=(-O3 -std=c++17 -Xcompiler -fPIC,-fvisibility=hidden -Ibindings -Icuda -Ikernels --extra-device-vectorization --threads 2)
started=$SECONDS
: > "$out/ptxas.txt"
objects=("$out/objects/check.o")
gcc -O2 -std=gnu11 -fPIC -fvisibility=hidden -Ibindings -c cuda/check.c -o "$out/objects/check.o"
for source in cuda/*.cpp cuda/*.cu; do
  object=$out/objects/$(basename "$source").o
  objects+=("$object")
  nice -n 15 "$nvcc" -x cu "${flags[@]}" "${targets[@]}" -Xptxas -v -c "$source" -o "$object" 2> "$out/objects/log" || { cat "$out/objects/log" >&2; exit 1; }
  cat "$out/objects/log" >> "$out/ptxas.txt"
done
g++ -shared -static-libstdc++ -static-libgcc -o "$out/libanx_cuda.so" "${objects[@]}" -L"$libraries" -lcudart_static -ldl -lrt -lpthread -Wl,--no-undefined
python3 cuda/spills.py "$out/ptxas.txt" > "$out/kernels.txt"
echo "$out/libanx_cuda.so: $(stat -c %s "$out/libanx_cuda.so") bytes in $((SECONDS - started)) s; registers of every kernel in $out/kernels.txt"
