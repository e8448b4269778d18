#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""austen.py RDB > TEXT: the six novels of the R package janeaustenr as one plain text.

An .rdb file is a row of blocks, each a 4-byte big-endian length (of the data once unpacked)
and a zlib stream. Here a block is one novel: an R vector of strings, a string a line, in R's
binary serialization. The novels come out in the order of the file, which is alphabetical,
and every line ends with a newline, the last one of a novel too.
"""
import struct
import sys
import zlib

STRSXP, CHARSXP = 16, 9  # R's type codes: a vector of strings, one string


def blocks(data):
    at = 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        stream = zlib.decompressobj()
        block = stream.decompress(data[at + 4 :]) + stream.flush()
        if len(block) != size or not stream.eof:
            raise ValueError(f"block at byte {at}: {len(block)} bytes unpacked, {size} promised")
        yield block
        at = len(data) - len(stream.unused_data)


def strings(block):
    """The strings of a serialized STRSXP; anything after them (attributes) is not ours."""
    if block[:2] != b"X\n":
        raise ValueError("not R's binary serialization")
    (version,) = struct.unpack_from(">i", block, 2)
    at = 14  # after the format version, R's own, and the oldest R that can read it
    if version >= 3:  # names its encoding
        (n,) = struct.unpack_from(">i", block, at)
        at += 4 + n
    kind, count = struct.unpack_from(">Ii", block, at)
    if kind & 0xFF != STRSXP:
        raise ValueError(f"R type {kind & 0xFF} where a vector of strings ({STRSXP}) is due")
    at += 8
    for i in range(count):
        kind, n = struct.unpack_from(">Ii", block, at)
        at += 8
        if kind & 0xFF != CHARSXP or n < 0 or at + n > len(block):
            raise ValueError(f"string {i} of {count} is not whole")
        yield block[at : at + n]
        at += n


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: austen.py RDB > TEXT")
    with open(sys.argv[1], "rb") as f:
        data = f.read()
    try:
        novels = [b"".join(line + b"\n" for line in strings(block)) for block in blocks(data)]
    except (ValueError, struct.error, zlib.error) as error:
        sys.exit(f"austen.py: {sys.argv[1]}: {error}")
    sys.stdout.buffer.write(b"".join(novels))


if __name__ == "__main__":
    main()
