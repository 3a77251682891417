#!/usr/bin/env bash
# The layers of docs/design.md: a file includes only files of a lower number or of its own folder, and each public header
# counts as a file of one folder; no torch header in kernels/, torch/torch.h nowhere; one launch, one header with PTX; only src/core/write.cpp opens files for writing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
declare -A level=([core]=0 [report]=1 [io]=1 [kernels]=1 [ops]=2 [text]=1 [data]=2 [clean]=3 [quant]=3 [model]=4 [cuda]=4 [adapter]=5 [eval]=6 [checkpoint]=6 [train]=7 [cli]=8)
bad=0
complain() {
  echo "$*"
  bad=1
}
# The folder that each header of include/rankfold is of: the lowest that has what it declares.
declare -A public=([config]=core [error]=core [batch]=core [choices]=core [ordered_map]=core [tensor_file]=io [memory]=ops [tokenizer]=data [dataset]=data [chat_template]=data
  [causal_lm]=model [adapter]=adapter [evaluate]=eval [generate]=eval [trainer]=train [rankfold]=cli)
# Sets `folder` to that of a file, whose path may begin with src/ or include/; kernels/x.cu is of the folder kernels.
find_folder() {
  local path=${1#src/}
  path=${path#include/}
  folder=${path%%/*}
  [[ $folder != rankfold ]] || { path=${path#rankfold/} folder=${public[${path%.h}]:-none}; }
}
while IFS=: read -r file line; do
  find_folder "$file" && from=$folder
  to=${line#*\"}
  find_folder "${to%\"}" && to=$folder
  [[ -n ${level[$from]:-} ]] || { complain "$file has no level"; continue; }
  [[ -n ${level[$to]:-} ]] || { complain "$file: $line has no level"; continue; }
  [[ $to == "$from" ]] && continue
  ((${level[$to]} < ${level[$from]})) ||
    complain "$file ($from, level ${level[$from]}): $line ($to, level ${level[$to]})"
done < <(grep -rHoE '^#include "[^"]+"' src kernels include | grep -v '#include "simt/')
grep -rnE '#include *[<"]torch/torch\.h' include src tests examples && complain "torch/torch.h takes 25 s a file"
grep -rnE '#include *[<"](torch|ATen|c10)/' kernels && complain "a torch header in kernels/"
grep -rn '<<<' kernels | grep -v '^kernels/launch.h:' && complain "a launch outside kernels/launch.h"
grep -rnwE 'asm' kernels | grep -v '^kernels/ptx.h:' && complain "PTX outside kernels/ptx.h"
grep -rn '__shared__' kernels | grep -v '^kernels/device.h:' && complain "shared memory that kernels/device.h does not carve"
grep -rnE 'atomicAdd|cooperative_groups|curand' kernels && complain "sums in no fixed order, or what the shim does not have"
grep -rnE '\bofstream\b|\bfopen\(|O_WRONLY|O_RDWR|O_CREAT|\bfs::(rename|remove|remove_all|create_director\w*|copy\w*)\(|[^:A-Za-z0-9_]::(unlink|rename|renameat2|remove|mkdir|rmdir|truncate|ftruncate|link|symlink)\(' src | grep -v '^src/core/write.cpp:' && complain "written, renamed or deleted outside src/core/write.cpp"
((bad == 0)) && echo "layers: in order"
exit $bad
