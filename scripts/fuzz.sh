#!/usr/bin/env bash
# Runs every fuzz target of the module for some seconds each: scripts/fuzz.sh SECONDS
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?"say for how many seconds"}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
count=0
for package in $(go list ./...); do
  for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
    printf '%s %s\n' "$package" "$target"
    if ! go test -run '^$' -fuzz "^$target\$" -fuzztime "${seconds}s" -fuzzminimizetime 10x "$package" >"$log" 2>&1; then
      # Go's coordinator can report its own -fuzztime as a failure (golang/go#75804). A finding is told apart: it writes its input.
      if ! grep -qx ' *context deadline exceeded' "$log" || grep -qE 'Failing input written|panic' "$log"; then cat "$log"; exit 1; fi
      echo "ended at its time, which Go reported as a failure (golang/go#75804); nothing was found"
    fi
    tail -n 1 "$log"
    count=$((count + 1))
  done
done
[ "$count" -gt 0 ] || { echo "fuzz: there is no fuzz target" >&2; exit 1; }
printf 'fuzzed %d targets for %d s each\n' "$count" "$seconds"
