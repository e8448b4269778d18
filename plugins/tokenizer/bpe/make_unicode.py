#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make_unicode.py: writes unicode_tables.h beside this file; run by hand.

Needs Python 3.11, whose unicodedata is Unicode 14 as PCRE2 10.42 is, unicodedata2 16.0.0, by whose
classes `tokenizers` and `tiktoken` cut, and tokenizers 0.23. The latter normalizes by older data:
what it does not know, the tables of normal forms leave out too. Stand-ins: for each character whose class the two
versions see differently, one of Unicode 3.2 with the right class and as many bytes of UTF-8.
"""

import os
import unicodedata as old

import unicodedata2 as new
from tokenizers import normalizers

assert old.unidata_version == "14.0.0" and new.unidata_version == "16.0.0"
ALL = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
HANGUL = range(0xAC00, 0xAC00 + 11172)


def key(c):
    """What the patterns ask: category, Han or not, bytes."""
    han = new.name(chr(c), "").startswith("CJK UNIFIED")
    return new.category(chr(c)), han, len(chr(c).encode())


def ranges(values):
    """[(c, value)] in order of c -> [from, to, value]"""
    out = []
    for c, v in values:
        if out and out[-1][1] == c - 1 and out[-1][2] == v:
            out[-1][1] = c
        else:
            out.append([c, c, v])
    return out


def stand_ins():
    first = {}
    for c in ALL:
        # not a letter that (?i:'s) or \h in \s would take for something else
        if old.category(chr(c)) == new.category(chr(c)) != "Cn" and c not in (0x17F, 0x180E):
            first.setdefault(key(c), c)
    differ = [c for c in ALL if old.category(chr(c)) != new.category(chr(c))] + [0x180E]
    return ranges([(c, first[key(c)]) for c in sorted(differ)])


NFD = normalizers.NFD().normalize_str


def combining(c):
    """The class, or 0 where the library takes the mark for a starter."""
    x, value = chr(c), new.combining(chr(c))
    if not value or NFD(x) != x:
        return value
    moved = NFD("a" + x + "\u0334") == "a\u0334" + x or NFD("a\u0345" + x) == "a" + x + "\u0345"
    return value if moved else 0


def decompositions():
    for c in ALL:
        d = new.decomposition(chr(c))
        if NFD(chr(c)) == chr(c):
            continue
        if d and not d.startswith("<"):
            parts = [int(x, 16) for x in d.split()]
            yield c, parts[0], parts[1] if len(parts) > 1 else 0


def compositions():
    pairs = [
        (a, b, c)
        for c, a, b in decompositions()
        if b and new.normalize("NFC", chr(a) + chr(b)) == chr(c)
    ]
    return sorted(pairs)


def marks(pairs):
    second = {b for _, b, _ in pairs} | set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    return ranges(
        [
            (c, combining(c))
            for c in ALL
            if new.combining(chr(c)) or c in second or new.normalize("NFC", chr(c)) != chr(c)
        ]
    )


def write(out, name, doc, rows):
    out.write(f"\n/* {doc} */\nstatic const uint32_t {name}[][3] = {{\n")
    line = "   "
    for row in rows:
        text = " { " + ", ".join(f"{v:#x}" if v > 255 else str(v) for v in row) + " },"
        if len(line) + len(text) > 100:
            out.write(line + "\n")
            line = "   "
        line += text
    out.write(line + "\n};\n")


def main():
    pairs = compositions()
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "unicode_tables.h")
    with open(path, "w") as out:
        out.write(
            "/* SPDX-License-Identifier: Apache-2.0\n *\n"
            " * unicode_tables.h - written by make_unicode.py from Unicode 16's character data,\n"
            " * beside Unicode 14's. Each table is sorted by its first columns. Each file uses some.\n"
            " */\n#ifndef TOKENIZER_UNICODE_TABLES_H\n#define TOKENIZER_UNICODE_TABLES_H\n"
            "#include <stdint.h>\n"
        )
        out.write("\n#ifdef BP_STAND_INS\n")
        write(
            out,
            "stand_ins",
            "from, to, the character of the same class that stands in",
            stand_ins(),
        )
        out.write("#endif\n\n#ifdef BP_NORMAL_FORMS\n")
        write(
            out,
            "decompositions",
            "character, what it is made of: first, second (0: none)",
            [d for d in decompositions() if d[0] not in HANGUL],
        )
        write(out, "compositions", "first, second, the character that they make", pairs)
        write(
            out, "marks", "from, to, combining class; 0: may still change under NFC", marks(pairs)
        )
        out.write("#endif\n#endif\n")


if __name__ == "__main__":
    main()
