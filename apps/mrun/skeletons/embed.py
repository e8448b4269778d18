#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes files as one C table of {name, text}. Usage: embed.py OUT.c FILE..."""
import os
import sys

out, files = sys.argv[1], sys.argv[2:]
rows = []
for path in files:
    with open(path, encoding="utf-8") as f:
        lines = f.read().splitlines()
    text = "\n".join(
        '        "' + line.replace("\\", "\\\\").replace('"', '\\"') + '\\n"' for line in lines
    )
    rows.append('    { "%s",\n%s },\n' % (os.path.basename(path), text))
with open(out, "w", encoding="utf-8") as f:
    f.write("/* written by embed.py from the files of this folder */\n")
    f.write('#include "apps/mrun/skeletons/skeletons.h"\n')
    f.write("const skeleton_file skeleton_files[] = {\n%s    { NULL, NULL },\n};\n" % "".join(rows))
