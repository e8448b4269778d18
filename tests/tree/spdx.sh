#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# spdx.sh: every file that may hold a comment says its licence in its first lines. Left out: data
# (fixtures, golden texts), the licence itself, and what `mrun new` gives away.
set -euo pipefail
cd "${MRUN_SOURCE:?run through meson test}"
count=0 bad=0
while IFS= read -r file; do
  case $file in
  LICENSE | */fixtures/*.txt | *.bin | *.idx | *.png | *.jpg | *.xz | *.safetensors | *.tiktoken | *.json | *.pyc | tests/abi/abi-*.txt) continue ;;
  apps/mrun/skeletons/*.in | apps/mrun/skeletons/*.c) continue ;;
  esac
  count=$((count + 1))
  if ! grep -q -m 1 'SPDX-License-Identifier: Apache-2.0' <(head -n 4 "$file"); then
    echo "no SPDX line: $file" >&2
    bad=$((bad + 1))
  fi
done < <(if [ -e .git ] && command -v git >/dev/null; then git ls-files -co --exclude-standard; else
  find . -path ./.git -prune -o -path './build*' -prune -o -path ./data -prune -o -path ./runs -prune -o \
    -type f -printf '%P\n'; fi)
[ "$count" -gt 100 ] || { echo "only $count files seen in $MRUN_SOURCE" >&2; exit 1; }
[ -s .clang-format ] || { echo "no .clang-format" >&2; exit 1; }
[ "$bad" = 0 ]
