#!/usr/bin/env bash
# What ptxas says of every kernel, held to tests/kernels_budget.txt: no spill, no stack, no more registers or static
# shared memory than committed, no kernel that is not in the budget. Reads BUILD/kernels/*.log, which the build leaves.
#   gates.sh [BUILD]             check; prints what changed, and a line for each kernel template
#   gates.sh --update [BUILD]    write the budget as it is now
#   gates.sh --markdown [BUILD]  the registers as a table, for docs/kernels.md
# Exit code 77: nothing to check (no CUDA in this build).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
budget=$root/tests/kernels_budget.txt
mode=check
case ${1:-} in
  --update | --markdown) mode=${1#--}; shift ;;
  -*) echo "gates.sh: unknown argument $1" >&2; exit 2 ;;
esac
build=${1:-$root/build}
skip() {
  echo "gates: skipped, $*"
  exit 77
}
cached() { sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"; }
[[ -f $build/CMakeCache.txt ]] || skip "$build is not configured"
[[ $(cached RANKFOLD_CUDA) != OFF ]] || skip "this build leaves CUDA out (RANKFOLD_CUDA=OFF)"
nvcc=$(cached RANKFOLD_NVCC)
[[ -x $nvcc ]] || skip "this build has no nvcc"
version=$("$nvcc" --version | sed -n 's/.*, V//p')
logs=()
for source in "$root"/kernels/*.cu; do  # a log of a file that is gone says nothing
  log=$build/kernels/$(basename "$source" .cu).log
  [[ -f $log ]] || { echo "gates: $log is not there; is rankfold_cuda built?"; exit 1; }
  logs+=("$log")
done

# ptxas' lines, as: file|kernel|architecture|registers|static shared|stack + spills + local, in bytes.
measure() {
  awk '
    FNR == 1 { file = FILENAME; sub(/.*\//, "", file); sub(/\.log$/, "", file) }
    /Compiling entry function/ { split($0, part, "\047"); name = part[2]; arch = part[4]; bad = shared = 0 }
    /bytes stack frame/ { bad += $1 + $5 + $9 }
    /: Used [0-9]+ registers/ {
      for (i = 1; i < NF; ++i) {
        if ($(i + 1) ~ /^registers/) registers = $i
        if ($(i + 1) == "bytes" && $(i + 2) ~ /^smem/) shared = $i
        if ($(i + 1) == "bytes" && $(i + 2) ~ /^(lmem|cumulative)/) bad += $i
      }
      print file "|" name "|" arch "|" registers "|" shared "|" bad
    }' "${logs[@]}" | c++filt |
    sed -E 's/\|void /|/; s/rankfold::kernels:://g; s/\(anonymous namespace\):://g; s/\(([A-Za-z]+)\)([0-9]+)/\2/g
            s/\([A-Za-z]+\)\|/|/' | sort -t'|' -k1,2 -k3,3V
}
# One line a kernel: file|kernel|static shared|registers by architecture.
compact() {
  awk -F'|' '
    { key = $1 "|" $2; if ($5 > shared[key]) shared[key] = $5; list[key] = list[key] " " $3 ":" $4 }
    END { for (key in list) print key "|" shared[key] + 0 "|" substr(list[key], 2) }' | sort
}

measured=$(measure)
broken=$(awk -F'|' '$6 > 0 { print "gates: " $1 ": " $2 " on " $3 ": " $6 " bytes of stack, spills or local memory" }' \
  <<<"$measured")

# The budget is of all architectures; a build may have been made for a few.
architectures() { grep -oE 'sm_[0-9]+' | sort -u; }
left_out=''
if [[ -f $budget ]]; then
  left_out=$(comm -23 <(architectures <"$budget") <(architectures <<<"$measured") | paste -sd' ')
fi
if [[ -n $left_out && $mode != check ]]; then
  echo "gates: this build leaves out ${left_out}; all: cmake $build -URANKFOLD_CUDA_ARCHITECTURES && cmake --build $build"
  exit 1
fi

case $mode in
  update)
    [[ -z $broken ]] || { echo "$broken"; exit 1; }
    {
      echo "# Written by tests/gates.sh --update: file|kernel|bytes of static shared memory|registers by architecture."
      echo "# nvcc $version"
      compact <<<"$measured"
    } >"$budget"
    echo "gates: $(grep -vc '^#' "$budget") kernels in $budget"
    exit ;;
  markdown)
    awk -F'|' '
      { template = $2; sub(/<.*/, "", template); key = $1 "|" template; kernel = key "|" $2
        if (!(kernel in seen)) { seen[kernel] = 1; count[key]++ }
        if (!($3 in known)) { known[$3] = 1; archs[++n] = $3 }
        if (!((key, $3) in low) || $4 < low[key, $3]) low[key, $3] = $4
        if ($4 > high[key, $3]) high[key, $3] = $4 }
      END {
        for (i = 1; i <= n; ++i) for (j = i + 1; j <= n; ++j)
          if (substr(archs[j], 4) + 0 < substr(archs[i], 4) + 0) { t = archs[i]; archs[i] = archs[j]; archs[j] = t }
        head = "| file | kernel | instances |"; rule = "| --- | --- | --- |"
        for (i = 1; i <= n; ++i) { head = head " " archs[i] " |"; rule = rule " --- |" }
        print head; print rule
        for (key in count) {
          split(key, part, "|"); line = "| " part[1] " | `" part[2] "` | " count[key] " |"
          for (i = 1; i <= n; ++i) {
            l = low[key, archs[i]]; h = high[key, archs[i]]
            line = line " " (l == h ? l : l "-" h) " |"
          }
          print line | "sort"
        }
      }' <<<"$measured"
    exit ;;
esac

# ---- check
failed=0
if [[ -n $broken ]]; then
  echo "$broken"
  failed=1
fi
[[ -f $budget ]] || { echo "gates: $budget is missing; tests/gates.sh --update writes it"; exit 1; }
written=$(sed -n 's/^# nvcc //p' "$budget")
if [[ $written != "$version" ]]; then
  echo "gates: the budget is for nvcc $written, this is $version: registers are not compared"
else
  compact <<<"$measured" | awk -F'|' '
    function registers(text, into,   list, i, n, pair) {
      delete into
      n = split(text, list, " ")
      for (i = 1; i <= n; ++i) { split(list[i], pair, ":"); into[pair[1]] = pair[2] }
    }
    function complain(text) { print "gates: " text; bad = 1 }
    /^#/ { next }
    NR == FNR { shared[$1 "|" $2] = $3; allowed[$1 "|" $2] = $4; next }
    {
      key = $1 "|" $2; name = $1 ": " $2; present[key] = 1
      if (!(key in allowed)) { complain(name " is not in the budget (" $4 ")"); next }
      if ($3 > shared[key]) complain(name ": " $3 " bytes of static shared memory, budget " shared[key])
      registers($4, now); registers(allowed[key], limit)
      for (arch in now) {
        if (!(arch in limit)) complain(name " on " arch " is not in the budget")
        else if (now[arch] + 0 > limit[arch] + 0)
          complain(name " on " arch ": " now[arch] " registers, budget " limit[arch])
        else if (now[arch] + 0 < limit[arch] + 0) fewer++
      }
    }
    END {
      for (key in allowed) if (!(key in present)) { split(key, part, "|"); complain(part[1] ": " part[2] " is gone") }
      if (fewer) print "gates: " fewer " kernels take fewer registers than their budget"
      exit bad
    }' "$budget" - || failed=1
fi
if ((failed)); then
  echo "gates: failed; where the new figures are wanted: tests/gates.sh --update"
  exit 1
fi
awk -F'|' '
  { template = $2; sub(/<.*/, "", template); key = $1 " " template; count[key]++; if ($4 > most[key]) most[key] = $4 }
  END {
    for (key in count) printf "%-44s %4d compiled, at most %3d registers\n", key, count[key], most[key] | "sort"
  }' <<<"$measured"
echo "gates: passed, $(wc -l <<<"$measured") kernels, no spill, no stack${left_out:+; not built, not checked: $left_out}"
