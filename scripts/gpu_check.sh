#!/bin/bash
# Checks and measures the CUDA back end on a machine with a GPU, which may have neither Go nor a network: gpu_check.sh [quick|all|PART...]
# PART: conformance, sanitizers, kernels, training, speed. Each leaves JSON or a log under bench/results/gpu (or $OUT).
# Built beforehand with `scripts/gpu_check.sh pack`, which puts the libraries, the test program and anynetx into build/gpu.
set -uo pipefail
cd "$(dirname "$0")/.."
kit=build/gpu
out=${OUT:-bench/results/gpu}

if [ "${1:-}" = pack ]; then
  set -e
  rm -rf "$kit" && mkdir -p "$kit"
  cp "${LIBRARY:-build/cuda13-lib/libanx_cuda.so}" build/lib/libanx_reference.so build/lib/libanx_cpu.so "$kit/"
  go test -c -o "$kit/verify.test" ./cuda/verify
  go build -ldflags='-s -w' -o "$kit/anynetx" ./cmd/anynetx
  strip -g "$kit"/*.so
  du -sh "$kit"
  exit
fi

[ -x "$kit/verify.test" ] || { echo "nothing is packed: run scripts/gpu_check.sh pack where Go is" >&2; exit 2; }
${SMI:-nvidia-smi} --query-gpu=name,driver_version,memory.total --format=csv,noheader || { echo "no GPU here" >&2; exit 1; }
mkdir -p "$out"
export ANX_LIBRARY_DIR=$PWD/$kit ANX_CUDA_BACKEND=${ANX_CUDA_BACKEND:-cuda}
export ANX_REQUIRE=$ANX_CUDA_BACKEND # SMI=true ANX_CUDA_BACKEND=cuda_host tries the script without a GPU
failed=0 skipped=0
part() { # name, seconds, command...
  local name=$1 seconds=$2 started=$SECONDS
  shift 2
  if timeout "$seconds" "$@" > "$out/$name.log" 2>&1; then
    echo "passed   $name ($((SECONDS - started)) s)"
  else
    echo "FAILED   $name ($((SECONDS - started)) s): $(grep -m1 -E '_test.go:|panic|ERROR SUMMARY|Error' "$out/$name.log" | cut -c1-200)"
    failed=$((failed + 1))
  fi
}
conformance() {
  for dtype in f32 f16 bf16; do part "conformance-$dtype" 240 "$kit/verify.test" -test.v -test.run "TestConformance/^$dtype\$"; done
}
training() { part training 240 "$kit/verify.test" -test.v -test.run 'TestTraining|TestLearns'; }
speed() { # of 16 networks; QUICK=2: of 2
  local device=${ANX_DEVICE:-cuda:0}
  part speed-32 200 python3 bench/gpu.py --program "$kit/anynetx" --device "$device" --count "${QUICK:-16}" --out "$out/speed.jsonl"
  part speed-224 200 python3 bench/gpu.py --program "$kit/anynetx" --device "$device" --resolution 224 --count "${QUICK:-16}" --out "$out/speed.jsonl"
}
sanitizers() {
  local tool=${SANITIZER:-$(command -v compute-sanitizer || true)}
  if [ -z "$tool" ]; then
    echo "skipped  sanitizers: no compute-sanitizer here"
    skipped=$((skipped + 1))
    return
  fi
  for check in memcheck racecheck initcheck synccheck; do
    for cases in "3x3/1 g=16" "g=11" "1x1/2" "pool" "xent"; do
      part "$check-${cases//[ \/=]/_}" 120 env ANX_CASES="$cases" "$tool" --tool "$check" --error-exitcode 9 "$kit/verify.test" -test.run 'TestConformance/^f16'
    done
  done
}
kernels() { ANX_BENCH=$PWD/$out/kernels.jsonl part kernels 420 "$kit/verify.test" -test.run "^$" -test.bench Kernels -test.benchtime 1x -test.timeout 7m; }

case ${1:-all} in
  quick) part conformance-f16 100 "$kit/verify.test" -test.v -test.run 'TestConformance/^f16$'; ANX_BENCH_QUICK=1 kernels ;;
  all) conformance; training; sanitizers; kernels; speed ;;
  *) for p in "$@"; do case $p in conformance | sanitizers | kernels | training | speed) $p ;; *) echo "no part $p" >&2; exit 2 ;; esac; done ;;
esac
[ ! -s "$out/kernels.log" ] || grep -E 'us .*GB/s' "$out/kernels.log" | sed 's/.*go:[0-9]*: //' > "$out/kernels.txt"
echo "$failed failed, $skipped skipped; logs in $out"
[ "$failed" = 0 ]
