#!/usr/bin/env bash
# Runs a test, unless the same has passed before: exit code 77 then. A warm build so tests what has changed. "The same" are
# SCRIPT, PROGRAM, the library beside it and the arguments. passed/ in the folder of that build has what passed; without
# it all run again.
#   once.sh SCRIPT PROGRAM [ARGUMENT...]     runs SCRIPT PROGRAM [ARGUMENT...]
set -euo pipefail
tree=$(dirname "$2")/..
[[ -x $2 ]] || exec "$@"  # which says what is missing
key=$(printf '%s\n' "$@" | cat - "$1" "$2" "$tree/lib/librankfold.so" | sha256sum | cut -d ' ' -f 1)
if [[ -f $tree/passed/$key ]]; then
  echo "once: skipped, $2 has passed, and neither it nor the library has changed"
  exit 77
fi
"$@"
mkdir -p "$tree/passed"
touch "$tree/passed/$key"
