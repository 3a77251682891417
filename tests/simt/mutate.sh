#!/usr/bin/env bash
# Would the tests see a missing barrier? Takes each __syncthreads(), wait_copies<>() and commit_copies() out of
# kernels/*.cu, one at a time, and runs that kernel's cases: every mutant must fail, in some order of the fibers or,
# where no order shows it, under TSan.
#   tests/simt/mutate.sh [--all] [BUILD]   without --all: kernels that changed since all their mutants were killed
# Exit code 1 where a mutant survives. Links mutants with the objects of BUILD, which it brings up to date first; works in
# BUILD/mutants, which holds a copy of the sources and a checksum for each kernel that is done.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
all=false
if [[ ${1:-} == --all ]]; then
  all=true
  shift
fi
build=$(realpath -m "${1:-$root/build}")
work=$build/mutants
rm -rf "$work/tree" "$work/plain" "$work/tsan"
mkdir -p "$work/plain" "$work/tsan" "$work/tree/tests"
cp -r "$root/kernels" "$work/tree/"  # somebody may edit while this runs
cp -r "$root/tests/kernels" "$root/tests/simt" "$work/tree/tests/"
root=$work/tree

# A kernel, mutated or not, compiled as in flavours.cmake but with -O1, in place of its object.
build_mutant() {  # FLAVOUR KERNEL SOURCE
  local flags=() objects=() object
  if [[ $1 == tsan ]]; then flags=(-fsanitize=thread); fi
  g++ -std=c++20 -O1 -fno-strict-aliasing -Wno-unknown-pragmas -I"$root" -I"$root/tests" "${flags[@]}" -x c++ -c "$3" \
    -o "$work/$1/mutant"
  for object in "$work/$1"/*.o; do [[ $object == */$2.cu.o ]] || objects+=("$object"); done
  g++ "${flags[@]}" -o "$work/$1/mutated" "$work/$1/mutant" "${objects[@]}" "$build/tests/libsimt_engine_$1.a" \
    -lgtest -lgtest_main -lboost_context -lpthread
}

# All that is not the mutant itself; the suite as it is must pass before its failures say something.
unchanged() {  # FLAVOUR
  cmake --build "$build" --target "simt_tests_$1" >"$work/$1/log" || { tail "$work/$1/log"; exit 1; }
  (cd "$work/$1" && ar x "$build/tests/libsimt_kernels_$1.a")
  local source
  for source in "$root"/tests/kernels/*.{cpp,cu} "$root/tests/simt/kernels_test.cpp"; do
    cp "$build/tests/CMakeFiles/simt_tests_$1.dir/${source#"$root/tests/"}.o" "$work/$1"
  done
}
cases_of() {  # KERNEL FILE: GoogleTest's filter
  case $1 in
    adamw) echo '*KernelTest*/adamw_*:*KernelTest*/square_sum_*' ;;
    *) echo "*KernelTest*/$1_*" ;;
  esac
}
# What has not ended in half an hour is waited for no longer, and says nothing of the tests: it may be a slow machine.
passes() {  # FLAVOUR PROGRAM KERNEL
  local code=0
  TSAN_OPTIONS=halt_on_error=1 timeout 1800 "$2" --gtest_brief=1 --gtest_fail_fast --gtest_filter="$(cases_of "$3")" \
    >"$work/$1/log" 2>&1 || code=$?
  if ((code == 124)); then
    echo "mutate: the $1 cases of $3 were not over after 1800 s: $work/$1/log" >&2
    exit 1
  fi
  return "$code"
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
    build_mutant "$flavour" "$kernel" "$source"
    passes "$flavour" "$work/$flavour/mutated" "$kernel" || {
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
      build_mutant "$flavour" "$kernel" "$mutant"
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
