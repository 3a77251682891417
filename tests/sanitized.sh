#!/usr/bin/env bash
# Runs a program of build/asan or build/tsan. Exit code 77 where it is not built: tests/run.sh builds it.
#   sanitized.sh PROGRAM [ARGUMENT...]
# Nothing is suppressed. LibTorch is not instrumented: containers that it fills look overfull to us, and memory that was
# given back is kept apart for a few megabytes only, as it would count as growth.
set -euo pipefail
if ! [[ -x $1 ]]; then
  echo "sanitized: skipped, $1 is not built"
  exit 77
fi
export ASAN_OPTIONS=detect_container_overflow=0:quarantine_size_mb=16:detect_stack_use_after_return=1
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:die_after_fork=0
exec "$@"
