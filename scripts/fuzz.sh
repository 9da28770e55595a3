#!/usr/bin/env bash
# Runs every fuzz target of the module for some seconds each: scripts/fuzz.sh SECONDS
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?"say for how many seconds"}

count=0
for package in $(go list ./...); do
  for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
    printf '%s %s\n' "$package" "$target"
    go test -run '^$' -fuzz "^$target\$" -fuzztime "${seconds}s" "$package" | tail -n 3
    count=$((count + 1))
  done
done
[ "$count" -gt 0 ] || { echo "fuzz: there is no fuzz target" >&2; exit 1; }
printf 'fuzzed %d targets for %d s each\n' "$count" "$seconds"
