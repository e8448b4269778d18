#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Each header alone, in every dialect that a plugin may be written in, with no padding hidden
# in any struct. Arguments: the source tree, a C compiler, a C++ compiler.
set -u
root=$1 cc=$2 cxx=$3
bad=0
try() { # compiler, language, dialect, header
  "$1" -x "$2" "-std=$3" -fsyntax-only -Wall -Wextra -Wpadded -Werror -I "$root/include" - <<EOF || {
#include "mrun/$4"
#include "mrun/$4"
EOF
    echo "mrun/$4 does not compile as $3" >&2
    bad=1
  }
}
for header in "$root"/include/mrun/*.h; do
  name=${header##*/}
  for std in c11 c17 gnu17; do try "$cc" c $std "$name"; done
  for std in c++11 c++14 c++17 c++20; do try "$cxx" c++ $std "$name"; done
done
exit $bad
