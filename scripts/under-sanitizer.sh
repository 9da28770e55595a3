#!/usr/bin/env bash
# Runs Go tests against libraries built with ANX_SANITIZE=address,undefined, as `go test -json`: scripts/under-sanitizer.sh PACKAGE...
# The sanitizer's run time must be in the process before the library that needs it; leaks are not looked for, Go's runtime has its own heap.
set -euo pipefail
cd "$(dirname "$0")/.."
runtime=$("${CC:-cc}" -print-file-name=libasan.so)
[ -e "$runtime" ] || { echo "under-sanitizer: the C compiler ${CC:-cc} has no libasan.so: install its sanitizer library" >&2; exit 1; }
exec go test -count=1 -json -exec "env LD_PRELOAD=$runtime ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:abort_on_error=1:handle_segv=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1" "$@"
