#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make_fixtures.py: what numpy and the documented rules give for data/indexed.

Run once by hand (needs numpy); writes fixtures/ beside this file. Nothing here reads our C
code: random numbers, shuffles and sums are numpy's own, the walks are written down again from
the description of the format and of the sampling. An array is recorded as its length, the
FNV-1a hash of its values as little-endian i64, and its first eight values.
"""
import itertools
import math
import os
import struct

import numpy as np

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")
EOD = 256


def fnv(values):
    h = 0xCBF29CE484222325
    for byte in np.asarray(values, dtype="<i8").tobytes():
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def record(name, values):
    flat = np.asarray(values).reshape(-1).tolist()
    first = (flat + [0] * 8)[:8]
    return f"{name} {len(flat)} {fnv(flat):016x} " + " ".join(map(str, first)) + "\n"


def lengths_of(count, low, span):
    """The same formula stands in the C test."""
    return [low + (i * 7919 + 13 * i * i) % span for i in range(count)]


# ---- numpy's generator ---------------------------------------------------------------------


def write_shuffles(out):
    for seed, n in itertools.product([0, 1, 1234, 2**32 - 1], [1, 2, 3, 10, 625, 5000]):
        state = np.random.RandomState(seed)
        a = np.arange(n)
        state.shuffle(a)
        b = np.arange(n)
        state.shuffle(b)  # the stream goes on
        out.write(f"shuffle {seed} {n}\n" + record("first", a) + record("second", b))


# ---- document, sample and shuffle index ----------------------------------------------------


def documents_of(ids, epochs, state, apart):
    if apart:
        before = documents_of(ids, epochs - 1, state, False)
        return np.concatenate([before, documents_of(ids, 1, state, False)])
    order = np.array(ids * epochs, dtype=np.int32)
    state.shuffle(order)
    return order


def starts_of(lengths, documents, seq, count):
    """Lay the documents end to end; sample k starts at token k * seq of the row. A start that
    falls between two documents belongs to the later one's first token - but it was reached as
    the last of S + 1 tokens, so it always is a token, and the row names its document."""
    row = [(place, at) for place, d in enumerate(documents) for at in range(lengths[d])]
    starts = [(0, 0)]
    for k in range(1, count + 1):
        if k * seq < len(row):
            starts.append(row[k * seq])
        else:  # the end of a partial last sample: one before the last document's end
            starts.append((len(documents) - 1, lengths[documents[-1]] - 1))
    return starts


def sample_indices(lengths, first, last, seq, wanted, seed, partial):
    ids = list(range(first, last))
    per_epoch = int(np.sum(np.array(lengths)[first:last]))
    epochs = 1
    while wanted and epochs * per_epoch < wanted * seq + 1:
        epochs += 1
    apart = False
    before = 0
    if epochs > 1:
        before = ((epochs - 1) * per_epoch - 1) // seq
        apart = wanted - before < int(0.80 * ((per_epoch - 1) // seq))
    state = np.random.RandomState(seed)
    documents = documents_of(ids, epochs, state, apart)
    targets = epochs * per_epoch - 1
    count = math.ceil(targets / seq) if partial else targets // seq
    starts = starts_of(lengths, documents.tolist(), seq, count)
    cut = before if apart else count
    head = np.arange(cut, dtype=np.uint32)
    state.shuffle(head)
    tail = np.arange(cut, count, dtype=np.uint32)
    if apart:
        state.shuffle(tail)
    return documents, starts, np.concatenate([head, tail]), int(apart)


CASES = [
    # docs low span first last seq wanted seed partial
    (10, 3, 9, 0, 10, 8, 0, 1234, 0),
    (10, 3, 9, 0, 10, 8, 4, 1234, 0),
    (10, 3, 9, 0, 10, 8, 9, 7, 0),
    (40, 3, 30, 0, 40, 8, 90, 7, 0),
    (40, 3, 30, 0, 40, 8, 200, 7, 0),
    (40, 3, 30, 0, 40, 8, 160, 42, 0),
    (40, 3, 30, 0, 40, 8, 225, 42, 0),  # 63 of 81 samples of the last epoch: just under 80 %
    (40, 3, 30, 0, 40, 8, 226, 42, 0),
    (40, 3, 30, 5, 31, 8, 300, 3, 0),
    (40, 0, 3, 0, 40, 4, 0, 0, 0),
    (40, 0, 3, 0, 40, 4, 50, 5, 0),
    (40, 1, 1, 0, 40, 16, 11, 5, 0),
    (6, 50, 100, 0, 6, 10, 0, 9, 1),
    (6, 50, 100, 0, 6, 11, 0, 9, 1),
    (6, 0, 5, 0, 6, 3, 0, 2, 1),
    (6, 50, 100, 2, 6, 1, 700, 4294967295, 0),
    (1, 100, 1, 0, 1, 9, 35, 0, 0),
    (3000, 1, 60, 0, 3000, 16, 0, 1, 0),
    (3000, 1, 60, 100, 2900, 16, 12345, 1234, 0),
]


def write_samples(out):
    for case in CASES:
        count, low, span, first, last, seq, wanted, seed, partial = case
        lengths = lengths_of(count, low, span)
        documents, starts, shuffle, apart = sample_indices(
            lengths, first, last, seq, wanted, seed, partial
        )
        out.write("samples " + " ".join(map(str, case)) + f" {apart}\n")
        out.write(record("documents", documents))
        out.write(record("starts", starts))
        out.write(record("shuffle", shuffle))


# ---- whole samples -------------------------------------------------------------------------


def token(document, at, length, eod_every):
    """The same formula stands in the C test."""
    if at == length - 1 or (eod_every and at % eod_every == eod_every - 1):
        return EOD
    return (document * 31 + at * 7) % 250


def write_items(out):
    for eod_every, flags, pad in itertools.product([0, 5], range(8), [-1, 14]):
        count, low, span, seq, wanted, seed = 30, 1, 25, 12, 60, 11
        lengths = lengths_of(count, low, span)
        documents, starts, shuffle, _ = sample_indices(lengths, 0, count, seq, wanted, seed, 0)
        items = []
        for j in shuffle[:wanted]:
            (p, a), (q, b) = starts[j], starts[j + 1]
            text = []
            for place in range(p, q + 1):
                d = int(documents[place])
                for at in range(a if place == p else 0, b + 1 if place == q else lengths[d]):
                    text.append(token(d, at, lengths[d], eod_every))
            x = np.array(text)
            assert len(x) == seq + 1
            tokens, labels = x[:-1].copy(), x[1:].copy()
            mask, positions, start = np.ones(seq), np.arange(seq), np.zeros(seq, dtype=int)
            ends = np.nonzero(tokens == EOD)[0]
            if flags & 4:
                mask[tokens == EOD] = 0
            before = 0
            for i in ends:
                if flags & 1:
                    positions[i + 1 :] -= i + 1 - before
                    before = i + 1
                if flags & 2:
                    start[i + 1 :] = i + 1
            mask[labels == pad] = 0
            tokens[tokens == pad] = 0
            labels[labels == pad] = 0
            items.append(np.stack([tokens, labels, positions, start, mask.astype(int)]))
        out.write(f"items {count} {low} {span} {seq} {wanted} {seed} {eod_every} {flags} {pad}\n")
        out.write(record("values", np.concatenate(items)))


# ---- blends, splits ------------------------------------------------------------------------


def greedy(weights, size, sizes=None):
    taken = [0] * len(weights)
    which, sample = [], []
    for k in range(size):
        lag = [w * max(float(k), 1.0) - t for w, t in zip(weights, taken)]
        open_ = [i for i in range(len(lag)) if sizes is None or taken[i] < sizes[i]]
        best = max(open_, key=lambda i: lag[i])  # the first of equals
        which.append(best)
        sample.append(taken[best])
        taken[best] += 1
    return which, sample


def normalize(w):
    w = np.array(w, dtype=np.float64)
    return (w / np.sum(w)).tolist()


def write_blends(out):
    for weights, size in [
        ([0.5, 0.5], 40),
        ([0.3, 0.7], 1000),
        ([1, 1, 1], 300),
        ([5, 1, 2.5, 0.25], 999),
        ([0.1] * 10, 500),
        ([1 / (i + 1) for i in range(20)], 2000),
    ]:
        which, sample = greedy(normalize(normalize(weights)), size)
        out.write(f"weighted {len(weights)} {size} " + " ".join(float(w).hex() for w in weights))
        out.write("\n" + record("which", which) + record("sample", sample))
    for sizes in [[10], [3, 3, 3], [100, 1, 17], [5, 80, 5, 40]]:
        which, sample = greedy([s / sum(sizes) for s in sizes], sum(sizes), sizes)
        out.write(f"exhaustive {len(sizes)} " + " ".join(map(str, sizes)))
        out.write("\n" + record("which", which) + record("sample", sample))
    for n in [1, 2, 7, 8, 9, 100, 127, 128, 129, 200, 1000, 5001]:
        v = np.array([1 / (i + 3) for i in range(n)])
        out.write(f"sum {n} {float(np.sum(v)).hex()}\n")
    for text, count in itertools.product(
        ["969,30,1", "949,50,1", "1", "0.5,0.5", "98,2,0", "1,1,1", "0,1,0"],
        [1, 2, 5, 10, 15, 101, 1000, 123457],
    ):
        share = normalize(([float(x) for x in text.split(",")] + [0.0, 0.0])[:3])
        ends = [0.0]
        for s in share:
            ends.append(ends[-1] + s)
        bounds = [int(round(e * float(count))) for e in ends]
        out.write(f"split {text} {count} " + " ".join(map(str, bounds)) + "\n")


# ---- the files themselves ------------------------------------------------------------------


def write_tiny():
    """Four sequences in three documents, u16, by the layout as described."""
    sequences = [[1, 2, 3], [65499], [], [7, 8]]
    boundaries = [0, 2, 3, 4]
    idx = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, len(sequences), len(boundaries))
    idx += struct.pack("<4i", *map(len, sequences))
    at, offsets = 0, []
    for s in sequences:
        offsets.append(at)
        at += 2 * len(s)
    idx += struct.pack("<4q", *offsets) + struct.pack("<4q", *boundaries)
    with open(os.path.join(HERE, "tiny.idx"), "wb") as f:
        f.write(idx)
    with open(os.path.join(HERE, "tiny.bin"), "wb") as f:
        for s in sequences:
            f.write(struct.pack(f"<{len(s)}H", *s))


def main():
    os.makedirs(HERE, exist_ok=True)
    for name, write in [
        ("shuffles.txt", write_shuffles),
        ("samples.txt", write_samples),
        ("items.txt", write_items),
        ("blends.txt", write_blends),
    ]:
        with open(os.path.join(HERE, name), "w") as out:
            write(out)
    write_tiny()


if __name__ == "__main__":
    main()
