#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# links.sh: what a page of the book links to, and what README says to run, is there.
set -euo pipefail
cd "${MRUN_SOURCE:?run through meson test}"
bad=0 seen=0
for page in *.md docs/*.md examples/*/README.md core/ops/README.md; do
  while IFS= read -r target; do
    seen=$((seen + 1))
    [ -e "$(dirname "$page")/$target" ] || { echo "$page links to $target" >&2; bad=1; }
  done < <(grep -o '](\([^)#:]*\))' "$page" | sed 's/^](//; s/)$//')
done
[ "$seen" -gt 20 ] || { echo "only $seen links seen" >&2; exit 1; }
exit $bad
