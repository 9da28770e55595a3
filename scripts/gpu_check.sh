#!/bin/bash
# Checks and measures the CUDA back end on a machine with a GPU, which may have neither Go nor a network: gpu_check.sh WHAT...
#   pack     puts libraries, test program and anynetx into build/gpu; to be done before, where Go is
#   first    conformance, training, kernels, speed, ops and the peer on a few networks in 8 minutes, the most valuable first; quick: in 3
#   second   sanitizers, cuDNN, counters and torch.compile on one network in 4 minutes
#   all, or  conformance training sanitizers kernels cudnn speed ops peer peer-compile counters: parts of at most 8 minutes
#   dry      first and second here, on the harness: do the scripts work?
# What is measured goes to bench/results/gpu (or $OUT), at most eight files a call; report-WHAT.md and .json are the whole in short.
set -uo pipefail
cd "$(dirname "$0")/.."
kit=${KIT:-build/gpu}

pack() { # LIBRARY
  rm -rf "$kit" && mkdir -p "$kit" && cp "$1" build/lib/libanx_reference.so build/lib/libanx_cpu.so "$kit/" &&
    go test -c -o "$kit/verify.test" ./cuda/verify && go build -ldflags='-s -w' -o "$kit/anynetx" ./cmd/anynetx && strip -g "$kit"/*.so &&
    git rev-parse HEAD > "$kit/commit" && du -sh "$kit"
}

# Times are limits. A part gets no more than what is left of the whole's, and none if that is under ten seconds.
whole=100000
note() { # state, name, seconds, text
  printf '%-8s %s (%s s)%s\n' "$1" "$2" "$3" "${4:+: $4}"
  printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "${4:-}" >> "$parts"
  keep
}
keep() { # what there is by now, in case that nobody lets us end; two parts may end at once
  (
    flock 9
    tar -czf "$out/.logs" -C "$logs" . 2> /dev/null # one may grow
    mv "$out/.logs" "$out/logs-$what.tar.gz"
    "$python" bench/gpu_report.py --parts "$parts" --commit "$(cat "$kit/commit" 2> /dev/null)" --gpu "$gpu" --name "report-$what" "$out" > /dev/null
  ) 9> "$logs/.lock"
}
part() { # name, seconds, command...
  local refused name=$1 seconds=$2 began=$SECONDS left=$((whole - SECONDS)) code=0
  shift 2
  [ -z "${DRY:-}" ] || seconds=3000 left=3000 # a slow machine is no fault of the scripts
  [ "$left" -ge 10 ] || { note skipped "$name" 0 "no time left"; return; }
  timeout -k 5 "$((seconds < left ? seconds : left))" "$@" > "$logs/$name.log" 2>&1 || code=$?
  case $code in
    0) note passed "$name" $((SECONDS - began)) ;;
    124) note FAILED "$name" $((SECONDS - began)) "out of time: $(tail -n 1 "$logs/$name.log" | tr '\t' ' ' | cut -c1-200)" ;;
    *)
      if refused=$(grep -m1 -oE 'Device not supported|Failed to initialize the profiler' "$logs/$name.log"); then # by a tool, on some machines
        note skipped "$name" $((SECONDS - began)) "$refused"
        return
      fi
      refused=$(grep -E '_test.go:|panic|ERROR SUMMARY|Error|error' "$logs/$name.log" | grep -v ' begins ' | tr '\t' ' ' | cut -c1-200)
      note FAILED "$name" $((SECONDS - began)) "$(head -n 1 <<< "$refused")"
      sed -n '2,8s/^/         /p' <<< "$refused"
      ;;
  esac
  return $code
}

conformance() { # a process a type: what loses the device to one leaves the others theirs
  local dtype found pids=()
  for dtype in f16 bf16 f32; do
    part "conformance-$dtype" 180 "$kit/verify.test" -test.v -test.run "TestConformance/^$dtype\$" &
    pids+=($!)
  done
  part conformance-else 180 "$kit/verify.test" -test.v -test.run "$others"
  wait "${pids[@]}"
  for dtype in f16 bf16; do # which kernel, at which address?
    found=$(sed -n 's/.* case \(.*\), 1 models: device lost.*/\1/p' "$logs/conformance-$dtype.log" | head -n 1)
    [ -z "$found" ] || sanitized "lost-$dtype" memcheck "$found" "TestConformance/^$dtype\$"
  done
}
training() { part training 240 "$kit/verify.test" -test.v -test.run "$trainings"; }
cudnn() { # the machine's cuDNN, if only PyTorch's: conformance, then the time of what it takes
  local kind=dense libraries=${LD_LIBRARY_PATH:-}
  libraries=$("$python" -c 'import glob, nvidia; print(":".join(glob.glob(list(nvidia.__path__)[0] + "/*/lib")))' 2> /dev/null)${libraries:+:$libraries}
  [ -z "${DRY:-}" ] || kind=dry
  part cudnn-conformance 120 env LD_LIBRARY_PATH="$libraries" "$kit/verify.test" -test.v -test.run 'TestCudnn'
  part cudnn-kernels 120 env LD_LIBRARY_PATH="$libraries" ANX_CUDNN=all ANX_BENCH_QUICK="$kind" ANX_BENCH="$out/cudnn.jsonl" "$kit/verify.test" -test.v -test.run '^$' -test.bench Kernels -test.benchtime 1x
}
kernels() { part kernels "${1:-420}" env ANX_BENCH="$out/kernels.jsonl" "$kit/verify.test" -test.v -test.run '^$' -test.bench Kernels -test.benchtime 1x -test.timeout 7m; }
speed() { # networks at 32 px, at 224 px
  part speed-32 150 "${measure[@]}" --seconds 0.5 --count "${1:-16}" --out "$out/speed.jsonl"
  part speed-224 200 "${measure[@]}" --seconds 0.5 --resolution 224 --count "${2:-16}" --out "$out/speed.jsonl"
}
ops() {
  part ops-32 60 "${measure[@]}" --seconds 0.3 --count 1 --ops --out "$out/ops.jsonl"
  part ops-224 60 "${measure[@]}" --seconds 0.3 --count 1 --ops --resolution 224 --out "$out/ops.jsonl"
}
torch() { # part: is PyTorch here?
  "$python" -c 'import torch' 2> /dev/null || { note skipped "$1" 0 "no PyTorch here"; return 1; }
}
peer() { # networks at 32 px, at 224 px
  torch peer || return
  part peer-32 240 "${other[@]}" small --count "${1:-16}"
  part peer-224 300 "${other[@]}" eager --count "${2:-16}"
}
peer-compile() { torch peer-compile && part peer-compile 470 "${other[@]}" compile --count "${1:-4}"; }
sanitized() { # part, check, cases, tests
  local tool=${SANITIZER:-compute-sanitizer}
  command -v "$tool" > /dev/null || { note skipped "$1" 0 "no compute-sanitizer here"; return; }
  part "$1" "${each:-60}" env ANX_CASES="$3" "$tool" --tool "$2" --print-limit 10 --error-exitcode 9 "$kit/verify.test" -test.run "$4"
}
sanitizers() { # checks...
  local cases check
  [ $# -gt 0 ] || set -- memcheck racecheck initcheck synccheck
  for check in "$@"; do
    for cases in "3x3/1 g=16" "g=11" "1x1/2" "pool" "xent"; do
      ANX_EVERY=${ANX_EVERY:-3} sanitized "$check-${cases//[ \/=]/_}" "$check" "$cases" 'TestConformance/^f16$'
    done
  done
}
counters() { # bytes and occupancy of every kernel of one step at 224 px
  local tool=${NCU:-ncu}
  command -v "$tool" > /dev/null || { note skipped counters 0 "no ncu here"; return; }
  part counters 120 "$tool" --csv --clock-control none --target-processes all --profile-from-start off --log-file "$out/counters.csv" \
    --metrics gpu__time_duration.sum,dram__bytes_read.sum,dram__bytes_write.sum,launch__registers_per_thread,sm__warps_active.avg.pct_of_peak_sustained_active \
    "${measure[@]}" --resolution 224 --count 1 --seconds 0.01 --profile
}

finish() {
  keep
  echo "$out/report-$what.md"
  rm -rf "$logs" "$parts"
}

what=${1:-first}
case $what in
  pack) pack "${LIBRARY:-build/cuda13-lib/libanx_cuda.so}"; exit ;;
  dry) # the harness stands for the GPU, small tools and a small library for those of NVIDIA
    export ANX_CUDNN_LIBRARY=$PWD/build/fake-cudnn/libcudnn.so.9
    export KIT=build/gpu-dry OUT=build/gpu-dry-out DRY=1 SMI=true ANX_CUDA_BACKEND=cuda_host ANX_EVERY=60 ANX_BENCH_QUICK=dry SANITIZER=build/gpu-dry/tool NCU=build/gpu-dry/tool
    kit=$KIT
    pack build/lib/libanx_cuda_host.so || exit
    printf '#!/bin/bash\nwhile [[ ${1:-} == --* ]]; do [[ $1 == --csv ]] || shift; shift; done\nexec "$@"\n' > "$kit/tool" && chmod +x "$kit/tool"
    scripts/gpu_check.sh first && scripts/gpu_check.sh second
    exit
    ;;
esac
[ -x "$kit/verify.test" ] || { echo "nothing is packed: run scripts/gpu_check.sh pack where Go is" >&2; exit 2; }
gpu=$("${SMI:-nvidia-smi}" --query-gpu=name,driver_version,memory.total --format=csv,noheader) || { echo "no GPU here" >&2; exit 1; }
echo "${gpu:-no GPU: a dry run}"
export ANX_LIBRARY_DIR=$PWD/$kit ANX_CUDA_BACKEND=${ANX_CUDA_BACKEND:-cuda} PYTHONUNBUFFERED=1
export ANX_REQUIRE=$ANX_CUDA_BACKEND
python=${PYTHON:-python3}
trainings=$([ -n "${DRY:-}" ] && echo TestRounding || echo "TestTraining|TestLearns|TestFiftySteps|TestRounding")
others=$([ -n "${DRY:-}" ] && echo "TestFaultsOfData|TestOutOfMemory|TestTimedRecords" || echo "TestFaultsOfData|TestOutOfMemory|TestTimedRecords|TestFused|TestModels|TestStreams|TestGroup")
measure=("$python" bench/gpu.py --program "$kit/anynetx" --device "$ANX_CUDA_BACKEND:0" ${DRY:+--dry})
out=${OUT:-bench/results/gpu}
out=$(mkdir -p "$out" && cd "$out" && pwd) parts=$(mktemp) logs=$(mktemp -d)
other=("$python" bench/peers/pytorch_gpu.py --program "$kit/anynetx" --seconds 0.6 --out "$out/peer.jsonl" ${DRY:+--dry})
trap finish EXIT
case $what in
  first | quick)
    whole=$([ "$what" = quick ] && echo 175 || echo 500)
    export ANX_BENCH_QUICK=${ANX_BENCH_QUICK:-1}
    part library 60 bash -c '"$0" devices && { [ -n "$1" ] || "$0" devices | grep -q ^cuda:; }' "$kit/anynetx" "${DRY:-}" || exit
    training & # beside the cases: what takes time is the reference, on the processor
    conformance
    wait $!
    kernels 120
    speed 16 6
    ops
    peer 4 2
    ;;
  second)
    whole=230 each=25
    sanitizers memcheck
    counters
    cudnn
    sanitizers racecheck
    peer-compile 1
    ;;
  *)
    [ "$1" != all ] || set -- conformance training sanitizers kernels cudnn speed ops peer peer-compile counters
    for p in "$@"; do
      case $p in
        conformance | training | sanitizers | kernels | cudnn | speed | ops | peer | peer-compile | counters) $p ;;
        *) echo "no part $p; the head of $0 lists them" >&2; exit 2 ;;
      esac
    done
    ;;
esac
! grep -q '^FAILED' "$parts"
