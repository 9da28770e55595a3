#!/bin/bash
# Breaks kernels one by one and demands that tests on the harness turn red: every barrier of barriers.txt left out where races are faults, then
# mutations.txt, of which `mutations.sh LINE` tries one. Needs `make harness-races` to have built; for a mutation only the files that hold kernels are
# compiled again, from a copy under build/mutations/_src, which Go does not take for packages.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD work=$PWD/build/mutations mutate=kernels/selfcheck/mutate.py
mkdir -p "$work/lib"
cp build/lib/libanx_reference.so "$work/lib/"
go test -c -o "$work/verify.test" ./cuda/verify
flags=(-std=c++20 -O1 -fPIC -DANX_ON_HARNESS -w)
[ "$(uname -m)" != x86_64 ] || flags+=(-mfma -mf16c)

build() { # CASES: the library from the kernels in $work/_src
  local tree=build extra=() objects=() o
  case $1 in races:*) tree=build/races extra=(-fsanitize=thread -DHOST_RACES) ;; esac
  for o in "$tree"/cuda/CMakeFiles/anx_cuda_host.dir/*.o; do
    case $o in */emit_*) ;; *) objects+=("$root/$o") ;; esac
  done
  rm -f "$work"/emit_*.o
  for source in emit_conv emit_map; do
    (cd "$work/_src" && nice -n 15 g++ "${flags[@]}" "${extra[@]}" -Ibindings -Icuda -Ikernels -Ikernels/host -c -x c++ cuda/$source.cu -o "$work/$source.o") &
  done
  wait
  g++ -shared -o "$work/lib/libanx_cuda_host.so" "$work"/emit_{conv,map}.o "${objects[@]}" "$tree/kernels/libanx_harness.a"
}
run() { # TESTS CASES [FOLDER OF LIBRARIES]: their exit code, 124 if they never end
  (cd cuda/verify && ANX_CASES=$2 ANX_LIBRARY_DIR=${3:-$work/lib} timeout 300 "$work/verify.test" -test.run "$1" > "$work/log" 2>&1)
}
run_cases() { # CASES, or a test
  case $1 in
    Test*) run "$1" "" ;;
    races:*) run 'TestConformance/^f16' "${1#races:}" "$races" ;;
    *) run 'TestConformance|TestModels/^f16' "$1" ;;
  esac
}
run_barriers() { # CASES; on one multiprocessor, so that every kernel's blocks loop
  ANX_HOST_UNITS=1 run 'TestConformance/^f16' "$1" "$races"
}
restore() { rm -rf "$work/_src" && mkdir -p "$work/_src" && cp -r kernels cuda bindings "$work/_src/"; }
is_found() { [ "$1" != 0 ] && [ "$1" != 124 ]; }
reason() { # of the first failure in the log
  { grep -m1 -oE '(a race: [^:]*|harness: |barrier|deadlock|collective|lane |SIG[A-Z]+|fault)[^;]*|[^ ]+ is [^,]*, want.*|[0-9]+ of [0-9]+ values of .*|was overwritten|was written|NaN has no place.*' "$work/log" ||
    grep -m1 -oE '_test.go:[0-9]+: .*' "$work/log" || tail -1 "$work/log"; } | head -1 | cut -c1-110
}
races=$root/build/races/lib # of whole kernels, until the first is broken
found=0 missed=0
tell() { # CODE WHAT
  if is_found "$1"; then
    echo "found:  $2: $(reason)"
    found=$((found + 1))
  else
    echo "MISSED: $2"
    missed=$((missed + 1))
  fi
}
green() { # COMMAND CASES: what nobody broke must be green, or a red case says nothing
  "$@" || { echo "mutations: \"$2\" is red with whole kernels; see $work/log" >&2; exit 1; }
}

restore && build ""
if [ -z "${1:-}" ]; then
  sed -n 's/^[a-z][^|]*| //p' kernels/selfcheck/barriers.txt | sort -u | while IFS= read -r cases; do green run_barriers "$cases"; done
  # Those whose comment says what they keep are for the compiler.
  while IFS=: read -r file line _; do
    code=0
    while IFS= read -r cases; do
      code=0
      ANX_HOST_WITHOUT=$file:$line run_barriers "$cases" || code=$?
      ! is_found $code || break
    done < <(sed -n "s/^$file | //p" kernels/selfcheck/barriers.txt)
    tell $code "no barrier in $file:$line"
  done < <(cd kernels && grep -HnE '^[^/]*__sync(threads|warp)\(' $(sed -n 's/^\([a-z][^ ]*\) | .*/\1/p' selfcheck/barriers.txt | sort -u) | grep -v '// keeps')
fi

lines() { # of mutations.txt, or the one that is asked for
  grep -v '^#' kernels/selfcheck/mutations.txt | sed -n "${1:-1,$}p"
}
lines "$@" | while IFS= read -r line; do python3 $mutate --cases "$line"; done | sort -u | while IFS= read -r cases; do green run_cases "$cases"; done
races=$work/lib
while IFS= read -r line; do
  restore
  what=$(python3 $mutate "$work/_src/kernels" "$line")
  cases=$(python3 $mutate --cases "$line")
  build "$cases"
  code=0
  run_cases "$cases" || code=$?
  tell $code "$what"
done < <(lines "$@")
echo "$found mutations found, $missed missed"
[ "$missed" = 0 ] && [ "$found" -gt 0 ]
