#!/bin/bash
# Breaks kernels one by one (mutations.txt) and demands that the conformance cases on the harness turn red: mutations.sh [line]
# Needs `make harness` to have built; works on a copy of kernels/ and cuda/ under build/mutations.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=build/mutations
mkdir -p "$work/lib"
cp build/harness/lib/libanx_reference.so "$work/lib/"
go test -c -o "$work/verify.test" ./cuda/verify
flags=(-std=c++20 -O1 -fPIC -shared -DANX_ON_HARNESS -mfma -mf16c -w)
[ "$(uname -m)" = x86_64 ] || flags=(-std=c++20 -O1 -fPIC -shared -DANX_ON_HARNESS -w)
found=0 missed=0 number=0
while IFS= read -r line; do
  case $line in '#'* | '') continue ;; esac
  number=$((number + 1))
  [ -z "${1:-}" ] || [ "$1" = "$number" ] || continue
  rm -rf "$work/src" && mkdir -p "$work/src" && cp -r kernels cuda bindings "$work/src/"
  what=$(python3 kernels/selfcheck/mutate.py "$work/src/kernels" "$line")
  cases=$(python3 kernels/selfcheck/mutate.py --cases "$line")
  gcc -O1 -fPIC -Ibindings -c cuda/check.c -o "$work/check.o"
  (cd "$work/src" && nice -n 15 g++ "${flags[@]}" -Ibindings -Icuda -Ikernels -Ikernels/host -o ../lib/libanx_cuda_host.so -x c++ cuda/*.cpp cuda/*.cu kernels/host/*.cpp -x none ../check.o)
  if (cd cuda/verify && ANX_CASES=$cases ANX_LIBRARY_DIR=$OLDPWD/$work/lib timeout 300 "$OLDPWD/$work/verify.test" -test.run 'TestConformance/^f16' > "$OLDPWD/$work/log" 2>&1); then
    echo "MISSED: $what"
    missed=$((missed + 1))
  else
    echo "found:  $what: $(grep -m1 -oE 'harness: .*|(barrier|deadlock|collective|lane|SIGSEGV|fault)[^;]*|[^ ]+ is [^,]*, want.*|the second time.*|was overwritten|was written|NaN has no place.*' "$work/log" | head -1 | cut -c1-110)"
    found=$((found + 1))
  fi
done < kernels/selfcheck/mutations.txt
echo "$found mutations found, $missed missed"
[ "$missed" = 0 ]
