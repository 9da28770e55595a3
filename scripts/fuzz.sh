#!/usr/bin/env bash
# Runs every fuzz target of the module for some seconds each: scripts/fuzz.sh SECONDS
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?"say for how many seconds"}

log=$(mktemp) stood=$(mktemp)
# Notes when this machine stood still for longer than half of what Go gives an input (10 s).
watch() { while last=$SECONDS && sleep 1; do ((SECONDS - last > 5)) && echo "$((SECONDS - last)) s" >>"$stood"; done; }
watch &
trap 'kill $! || true; rm -f "$log" "$stood"' EXIT

# standstill PACKAGE TARGET: Go took a standstill of the machine for a hang. Then the input that it wrote is good, whenever it is tried alone.
standstill() {
  [ -s "$stood" ] && grep -q 'fuzzing process hung' "$log" || return 1
  local input
  input=$(sed -n 's|^ *Failing input written to ||p' "$log")
  [ -n "$input" ] && go test -count 20 -timeout 100s -run "^$2\$/^${input##*/}\$" "$1" && rm "$(go list -f '{{.Dir}}' "$1")/$input"
}

count=0
for package in $(go list ./...); do
  for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
    printf '%s %s\n' "$package" "$target"
    for try in 1 2 3; do
      : >"$stood"
      go test -run '^$' -fuzz "^$target\$" -fuzztime "${seconds}s" -fuzzminimizetime 10x "$package" >"$log" 2>&1 && break
      # Go's coordinator can report its own -fuzztime as a failure (golang/go#75804). A finding is told apart: it writes its input.
      if grep -qx ' *context deadline exceeded' "$log" && ! grep -qE 'Failing input written|panic' "$log"; then
        echo "ended at its time, which Go reported as a failure (golang/go#75804); nothing was found"
        break
      fi
      if [ "$try" = 3 ] || ! standstill "$package" "$target"; then cat "$log"; exit 1; fi
      echo "the machine stood still for $(tail -n 1 "$stood"), which Go took for a hang; its input is good 20 times, so it is fuzzed again"
    done
    tail -n 1 "$log"
    count=$((count + 1))
  done
done
[ "$count" -gt 0 ] || { echo "fuzz: there is no fuzz target" >&2; exit 1; }
printf 'fuzzed %d targets for %d s each\n' "$count" "$seconds"
