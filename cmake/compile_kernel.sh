#!/bin/sh
# compile_kernel.sh LOG COMPILER ARGUMENT...: runs the compiler, keeps what it says in LOG and shows that if it failed.
log=$1
shift
"$@" >"$log" 2>&1 && exit
cat "$log"
rm -f "$log"
exit 1
