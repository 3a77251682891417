#!/usr/bin/env bash
# Runs a parser under libFuzzer from our seeds and what earlier runs have found (build/fuzzer/corpus): for 6 seconds
# with the same random numbers each time, or with others for $RANKFOLD_FUZZ_SECONDS, where that is set. Exit code 77
# where clang or the build is missing.
#   libfuzzer.sh BUILD PARSER
set -euo pipefail
build=$1 parser=$2 seconds=${RANKFOLD_FUZZ_SECONDS:-6}
seed=1
[[ -z ${RANKFOLD_FUZZ_SECONDS:-} ]] || seed=0  # libFuzzer then takes the time of day
program=$build/fuzzer/bin/fuzz_$parser
if ! [[ -x $program ]]; then
  echo "libfuzzer: skipped, $program is not built (tests/run.sh builds it where there is clang++)"
  exit 77
fi
corpus=$build/fuzzer/corpus/$parser
mkdir -p "$corpus" "$build/fuzzer/findings"
"$build/bin/fuzz_$parser" --seeds "$corpus"
work=$(mktemp -d "$([[ -d /dev/shm ]] && echo /dev/shm || echo /tmp)/rankfold-fuzz-XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/folder"
export RANKFOLD_FUZZ_FOLDER=$work/folder ASAN_OPTIONS=detect_container_overflow=0:quarantine_size_mb=16
if ! "$program" -max_total_time="$seconds" -seed="$seed" -max_len=65536 -timeout=60 -rss_limit_mb=1024 \
  -print_final_stats=1 -artifact_prefix="$build/fuzzer/findings/$parser-" "$corpus" >"$work/log" 2>&1; then
  tail -n 60 "$work/log"
  exit 1
fi
echo "$parser: $(awk '/stat::number_of_executed_units/ { print $2 }' "$work/log") inputs in $seconds s, $(find "$corpus" -type f | wc -l) kept, 0 findings"
