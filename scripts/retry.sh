#!/usr/bin/env bash
# Runs what needs the network up to three times: scripts/retry.sh COMMAND...
set -uo pipefail
for try in 1 2 3; do
  "$@" && exit 0
  echo "retry: $1 failed (try $try of 3)" >&2
  sleep $((try * 5))
done
exit 1
