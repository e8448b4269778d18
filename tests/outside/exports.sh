#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# exports.sh LIBMRUN: its dynamic symbols are the functions of include/mrun/mrun.h, all at
# version MRUN_0, and nothing else; its soname carries the version of its ABI.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
public=$(sed -n '/^MR_EXPORT/s/.*\b\(mr_[a-z_]*\)(.*/\1/p' "$here/../../include/mrun/mrun.h" | sort -u)
exported=$(nm -D --defined-only "$1" | awk '$2 == "T" { print $3 }' | sort)
[ -n "$public" ] || { echo "no MR_EXPORT function found in mrun.h" >&2; exit 1; }
diff <(sed 's/$/@@MRUN_0/' <<<"$public") <(printf '%s\n' "$exported") ||
  { echo "left: mrun.h, right: $1" >&2; exit 1; }
[[ $(readelf -d "$1") == *'soname: [libmrun.so.0]'* ]] ||
  { echo "the soname is not libmrun.so.0" >&2; exit 1; }
