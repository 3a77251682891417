#!/usr/bin/env bash
# The long rows: what tests/run.sh does a little of, done for hours. One line for each row, and a table of them with date,
# command and machine in build/soak.md. Fails if a row does.
#   tests/soak.sh [BUILD]            with, in the environment, other amounts than these:
#     INSTANTS=200 SIGNALS=200 STEPS=20000 FLIPS=10000 STATES=64 PAUSE=60 ROWS=1000000 MIB=8192 MUTANTS=1000000
#     VALGRINDS=300 FUZZ_SECONDS=1800 SEED=1
#   LARGE=<folder>    for the large files, by default build/: the base takes none of the MIB, its merged copy all of them
#   ALLOW_SKIPS=1     a row that could not be run is no failure
# Exit code: 0; 1 where a row has failed or was not run.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$(cd "${1:-$root/build}" && pwd)
instants=${INSTANTS:-200} signals=${SIGNALS:-200} steps=${STEPS:-20000} flips=${FLIPS:-10000} states=${STATES:-64}
pause=${PAUSE:-60} rows=${ROWS:-1000000} mib=${MIB:-8192} mutants=${MUTANTS:-1000000} fuzz_seconds=${FUZZ_SECONDS:-1800} seed=${SEED:-1}
valgrinds=${VALGRINDS:-300}
amounts="INSTANTS=$instants SIGNALS=$signals STEPS=$steps FLIPS=$flips STATES=$states PAUSE=$pause ROWS=$rows"
amounts+=" MIB=$mib MUTANTS=$mutants VALGRINDS=$valgrinds FUZZ_SECONDS=$fuzz_seconds SEED=$seed"
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1
log=$build/soak.log table=$build/soak.md
: >"$log"
failures=0 not_run=()

{
  echo "# Long tests"
  echo
  echo "$(date -u +%F), \`$amounts tests/soak.sh\`, commit $(git -C "$root" rev-parse --short HEAD),"
  echo "$(nproc --all) cores of $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), Linux $(uname -r)"
  echo
  echo "| row | result | seconds | |"
  echo "| --- | --- | --- | --- |"
} >"$table"

# row NAME PATTERN COMMAND...: the result is what the command prints in lines that open with PATTERN.
row() {
  local name=$1 pattern=$2 begin=$SECONDS verdict=passed result
  shift 2
  "$@" >"$build/soak.row" 2>&1
  local code=$?
  cat "$build/soak.row" >>"$log"
  ((code == 77)) && { verdict="not run" && not_run+=("$name"); }
  ((code == 0 || code == 77)) || { verdict=FAILED && failures=$((failures + 1)); }
  result=$(grep -E "^($pattern)" "$build/soak.row" | paste -sd ';' | sed 's/; */; /g; s/|/\\|/g')
  [[ -n $result ]] || result=$(tail -n 1 "$build/soak.row")
  echo "$name: $verdict in $((SECONDS - begin)) s: $result"
  echo "| $name | $result | $((SECONDS - begin)) | $verdict |" >>"$table"
}
faults() {
  local filter=$1
  shift
  "$build/bin/faults_tests" --gtest_filter="$filter" --seed="$seed" "$@"
}
# Files of gigabytes: on a disk, not in memory as the others' are.
large() {
  local folder=${LARGE:-$build/large} code
  mkdir -p "$folder"
  TMPDIR=$folder faults "$@"
  code=$?
  rmdir "$folder" 2>/dev/null
  return "$code"
}
# Under AddressSanitizer where that build is there.
mutated() {
  local program=$build/asan/bin/fuzz_$1
  [[ -x $program ]] || program=$build/bin/fuzz_$1
  "$root/tests/sanitized.sh" "$program" --mutants "$2" --seed "$seed"
}
# A hundredth of that for each kind of file of all other parsers.
others() {
  local parser code=0
  for parser in model quantized adapter tokenizer tokenizer_json jinja data clean; do
    mutated "$parser" $((mutants / 100)) || code=1
  done
  return "$code"
}
# Debian's sentencepiece has no sanitizer in it: what it reads beyond its memory valgrind sees.
reads() {
  command -v valgrind >/dev/null || return 77
  valgrind -q --error-exitcode=99 "$build/bin/fuzz_tokenizer" --file tokenizer.model --mutants "$valgrinds" --count 0 \
    --seed "$seed"
}
# What the reference says of mutants that are accepted, and of random templates.
oracle() {
  [[ -x $build/venv/bin/python ]] || return 77
  RANKFOLD_BIN=$build/bin RANKFOLD_MUTANTS=$((mutants / 100)) RANKFOLD_JINJA_SEEDS=20 PYTHONDONTWRITEBYTECODE=1 \
    "$build/venv/bin/python" -m pytest -q -p no:cacheprovider "$root/tests/oracle/test_hostile.py" \
    "$root/tests/oracle/test_jinja.py" -k "what_we_accept or random"
}
# As many parsers at a time as there are cores.
fuzz() {
  export RANKFOLD_FUZZ_SECONDS=$fuzz_seconds
  [[ -x $build/fuzzer/bin/fuzz_data ]] || { "$root/tests/fuzz/libfuzzer.sh" "$build" data; return; }
  printf '%s\n' safetensors model quantized adapter tokenizer tokenizer_json jinja data clean |
    nice xargs -P "$(nproc)" -n 1 "$root/tests/fuzz/libfuzzer.sh" "$build"
}

row "kill -9 of a run" "kill -9" faults 'KillInstants.*' --instants="$instants"
row "kill -9 of a merge and of a cleaning" "kill -9" faults '*Instants.OfKills' --instants="$instants"
row "signals to a run" "signals" faults 'SignalInstants.*:SaveInstants.*' --signals="$signals"
row "signals to a merge and to a cleaning" "signals" faults '*Instants.OfSignals' --signals="$signals"
row "a run that is stopped and continued" "signals" faults 'Signals.StoppedAndContinued' --pause="$pause"
row "a clock that is set back" "environment" faults 'Environment.AClock*'
row "memory and descriptors" "growth" faults 'Growth.*' --steps="$steps"
row "bytes of a checkpoint" "damage" faults 'Damage.OneByteAnywhere' --flips="$flips"
row "power cuts" "crashes" faults 'Crashes.*' --states="$states"
row "a data set of many rows" "large" large 'Large.*' --rows="$rows"
row "a merge of many shards" "large" large 'LargeMerge.*' --mib="$mib"
row "mutated safetensors headers" "safetensors|fuzz" mutated safetensors "$mutants"
row "mutated files of the other parsers" "model|quantized|adapter|tokenizer|jinja|data|clean" others
row "mutants and templates, by the reference" "[0-9]+ passed" oracle
row "what sentencepiece reads" "tokenizer" reads
row "libFuzzer" "[a-z_]+: [0-9]+ inputs|libfuzzer" fuzz
rm -f "$build/soak.row"
((${#not_run[@]} == 0)) || echo "soak: ${#not_run[@]} rows not run:$(printf ' %s;' "${not_run[@]}")"
echo "soak: $failures rows failed, ${#not_run[@]} not run; $table"
((failures == 0 && (${#not_run[@]} == 0 || ${ALLOW_SKIPS:-0} == 1)))
