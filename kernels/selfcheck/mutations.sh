#!/bin/bash
# Breaks kernels one by one (mutations.txt) and demands that the conformance cases on the harness turn red: mutations.sh [line]
# Needs `make harness` to have built; only the files that hold kernels are compiled again, from a copy under build/mutations/_src, which Go does not take for packages.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD work=$PWD/build/mutations
mkdir -p "$work/lib"
cp build/lib/libanx_reference.so "$work/lib/"
go test -c -o "$work/verify.test" ./cuda/verify
flags=(-std=c++20 -O1 -fPIC -DANX_ON_HARNESS -w)
[ "$(uname -m)" != x86_64 ] || flags+=(-mfma -mf16c)
objects=()
for o in build/cuda/CMakeFiles/anx_cuda_host.dir/*.o; do
  case $o in */emit_*) ;; *) objects+=("$root/$o") ;; esac
done

build() { # the library from the kernels in $work/_src
  rm -f "$work"/emit_*.o
  for source in emit_conv emit_map; do
    (cd "$work/_src" && nice -n 15 g++ "${flags[@]}" -Ibindings -Icuda -Ikernels -Ikernels/host -c -x c++ cuda/$source.cu -o "$work/$source.o") &
  done
  wait
  g++ -shared -o "$work/lib/libanx_cuda_host.so" "$work"/emit_{conv,map}.o "${objects[@]}" build/kernels/libanx_harness.a
}
run() { # CASES: the exit code of the cases; 124 if they never end
  (cd cuda/verify && ANX_CASES=$1 ANX_LIBRARY_DIR=$work/lib timeout 300 "$work/verify.test" -test.run 'TestConformance|TestModels/^f16' > "$work/log" 2>&1)
}
restore() { rm -rf "$work/_src" && mkdir -p "$work/_src" && cp -r kernels cuda bindings "$work/_src/"; }

# Kernels that nobody broke must be green, or a red case says nothing.
restore && build
mutate=kernels/selfcheck/mutate.py
grep -v '^#' kernels/selfcheck/mutations.txt | while IFS= read -r line; do python3 $mutate --cases "$line"; done | sort -u | while IFS= read -r cases; do
  run "$cases" || { echo "mutations: \"$cases\" is red with whole kernels; see $work/log" >&2; exit 1; }
done

found=0 missed=0 number=0
while IFS= read -r line; do
  case $line in '#'* | '') continue ;; esac
  number=$((number + 1))
  [ -z "${1:-}" ] || [ "$1" = "$number" ] || continue
  restore
  what=$(python3 $mutate "$work/_src/kernels" "$line")
  build
  code=0
  run "$(python3 $mutate --cases "$line")" || code=$?
  if [ $code != 0 ] && [ $code != 124 ]; then
    echo "found:  $what: $(grep -m1 -oE 'harness: .*|(barrier|deadlock|collective|lane|SIGSEGV|fault)[^;]*|[^ ]+ is [^,]*, want.*|the second time.*|was overwritten|was written|NaN has no place.*' "$work/log" | head -1 | cut -c1-110)"
    found=$((found + 1))
  else
    echo "MISSED: $what"
    missed=$((missed + 1))
  fi
done < kernels/selfcheck/mutations.txt
echo "$found mutations found, $missed missed"
[ "$missed" = 0 ] && [ "$found" -gt 0 ]
