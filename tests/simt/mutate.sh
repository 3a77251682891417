#!/usr/bin/env bash
# Would the tests see a missing barrier? Takes each __syncthreads(), wait_copies<>() and commit_copies() out of
# kernels/*.cu, one at a time, and runs that kernel's cases: every mutant must fail, in some order of the fibers or,
# where no order shows it, under TSan.
#   tests/simt/mutate.sh [--all] [BUILD]   without --all: kernels that changed since all their mutants were killed
# Exit code 1 where a mutant survives. Works in BUILD/mutants, which holds a copy of the sources, the objects that stay
# and a checksum for each kernel that is done.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
all=false
if [[ ${1:-} == --all ]]; then
  all=true
  shift
fi
work=$(realpath -m "${1:-$root/build}")/mutants
rm -rf "$work/tree"
mkdir -p "$work/plain" "$work/tsan" "$work/tree/tests"
cp -r "$root/kernels" "$work/tree/"  # somebody may edit while this runs
cp -r "$root/tests/kernels" "$root/tests/simt" "$work/tree/tests/"
root=$work/tree
compiler=(g++)
if command -v ccache >/dev/null; then compiler=(ccache g++); fi
jobs=$(nproc)

# As in flavours.cmake, but -O1 everywhere.
common=(-std=c++20 -O1 -fno-strict-aliasing -Wno-unknown-pragmas -I"$root" -I"$root/tests")
compile() {  # FLAVOUR SOURCE OBJECT
  local flags=("${common[@]}")
  if [[ $1 == tsan ]]; then
    if [[ $2 == */engine.cpp ]]; then flags+=(-DRANKFOLD_SIMT_TSAN); else flags+=(-fsanitize=thread); fi
  fi
  "${compiler[@]}" "${flags[@]}" -x c++ -c "$2" -o "$3"
}
link() {  # FLAVOUR PROGRAM OBJECT...
  local flags=()
  if [[ $1 == tsan ]]; then flags=(-fsanitize=thread); fi
  g++ "${flags[@]}" -o "$2" "${@:3}" -lgtest -lgtest_main -lboost_context -lpthread
}

# All that is not the mutant itself; the suite as it is must pass before its failures say something.
unchanged() {  # FLAVOUR
  local source
  for source in "$root"/kernels/*.cu "$root"/tests/kernels/*.cu "$root"/tests/kernels/*.cpp \
    "$root"/tests/simt/{engine,kernels_test}.cpp; do
    while (($(jobs -rp | wc -l) >= jobs)); do wait -n; done
    compile "$1" "$source" "$work/$1/$(basename "$source").o" &
  done
  while [[ -n $(jobs -p) ]]; do wait -n; done
  link "$1" "$work/$1/tests" "$work/$1"/*.o
}
cases_of() {  # KERNEL FILE: GoogleTest's filter
  case $1 in
    adamw) echo '*KernelTest*/adamw_*:*KernelTest*/square_sum_*' ;;
    *) echo "*KernelTest*/$1_*" ;;
  esac
}
passes() {  # FLAVOUR PROGRAM KERNEL
  local option=--gtest_fail_fast
  TSAN_OPTIONS=halt_on_error=1 timeout 600 "$2" --gtest_brief=1 "$option" --gtest_filter="$(cases_of "$3")" \
    >"$work/$1/log" 2>&1
}

places='^[^/]*(__syncthreads\(\)|wait_copies<[0-9]+>\(\)|commit_copies\(\));'
killed=0 survived=0 ready=''
for source in "$root"/kernels/*.cu; do
  kernel=$(basename "$source" .cu)
  mapfile -t lines < <(grep -nE "$places" "$source" | cut -d: -f1)
  stamp=$work/$kernel.killed
  sum=$(cat "$source" "$root"/kernels/*.h "$root"/tests/kernels/* "$root"/tests/simt/*.{h,cpp,sh} | sha256sum)
  if ((${#lines[@]} == 0)) || { ! $all && [[ -f $stamp && $(<"$stamp") == "$sum" ]]; }; then continue; fi
  for flavour in plain tsan; do
    [[ $ready == *$flavour* ]] || unchanged "$flavour"
    ready+=" $flavour"
    passes "$flavour" "$work/$flavour/tests" "$kernel" || {
      echo "mutate: the $flavour cases of $kernel fail without a mutation: $work/$flavour/log" >&2
      exit 1
    }
  done
  alive=0
  for line in "${lines[@]}"; do
    what=$(sed -n "${line}p" "$source" | sed -E 's/^ *//; s/ *\/\/.*//')
    death=''
    for flavour in plain tsan; do
      mutant=$work/$flavour/mutant.cu
      sed -E "${line}s/(__syncthreads\(\)|wait_copies<[0-9]+>\(\)|commit_copies\(\));//" "$source" >"$mutant"
      compile "$flavour" "$mutant" "$work/$flavour/mutant"
      objects=("$work/$flavour/mutant")
      for object in "$work/$flavour"/*.o; do [[ $object == */$kernel.cu.o ]] || objects+=("$object"); done
      link "$flavour" "$work/$flavour/mutated" "${objects[@]}"
      if ! passes "$flavour" "$work/$flavour/mutated" "$kernel"; then
        death=$flavour
        break
      fi
    done
    if [[ -n $death ]]; then
      killed=$((killed + 1))
      echo "mutate: $kernel.cu:$line without $what: killed ($death)"
    else
      alive=$((alive + 1))
      echo "mutate: $kernel.cu:$line without $what: SURVIVED"
    fi
  done
  survived=$((survived + alive))
  if ((alive == 0)); then echo "$sum" >"$stamp"; fi
done
echo "mutants: $killed killed, $survived survived"
((survived == 0))
