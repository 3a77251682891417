#!/usr/bin/env bash
# The layers of docs/design.md: a file includes only files of a lower number or of its own folder; no torch header in
# kernels/, torch/torch.h nowhere; only src/core/file.cpp opens files for writing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
declare -A level=([core]=0 [io]=1 [ops]=2 [data]=2 [model]=3 [adapter]=4 [eval]=5 [checkpoint]=5 [train]=6 [cli]=7)
bad=0
complain() {
  echo "$*"
  bad=1
}
while IFS=: read -r file line; do
  from=${file#src/} from=${from%%/*}
  to=${line#*\"} to=${to%%/*}
  [[ -n ${level[$from]:-} ]] || { complain "$file: folder $from has no level"; continue; }
  [[ $to == rankfold || $to == "$from" ]] && continue
  [[ -n ${level[$to]:-} ]] || { complain "$file: $line: unknown folder"; continue; }
  ((${level[$to]} < ${level[$from]})) || complain "$file (level ${level[$from]}) includes $to (level ${level[$to]})"
done < <(grep -rHoE '^#include "[^"]+"' src)
grep -rnE '#include *[<"]torch/torch\.h' include src tests examples && complain "torch/torch.h takes 25 s a file"
if [[ -d kernels ]]; then grep -rnE '#include *[<"](torch|ATen|c10)/' kernels && complain "a torch header in kernels/"; fi
grep -rnE '\bofstream\b|\bfopen\(|O_WRONLY|O_CREAT' src | grep -v '^src/core/file.cpp:' && complain "opened for writing outside src/core/file.cpp"
((bad == 0)) && echo "layers: in order"
exit $bad
