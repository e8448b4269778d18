#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What transformers' logits processors and vLLM's penalties leave of random logits: writes
sample_cases.h, probabilities in double. Needs torch and transformers."""
import pathlib

import torch
from transformers.generation import logits_process as lp

VOCAB = 24
torch.manual_seed(7)

CASES = [  # temperature, top_k, top_p, min_p, repetition, presence, frequency
    (1.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0), (0.7, 0, 1.0, 0.0, 1.0, 0.0, 0.0),
    (1.0, 5, 1.0, 0.0, 1.0, 0.0, 0.0), (1.0, 0, 0.8, 0.0, 1.0, 0.0, 0.0),
    (1.5, 0, 0.05, 0.0, 1.0, 0.0, 0.0), (1.0, 0, 1.0, 0.1, 1.0, 0.0, 0.0),
    (0.8, 9, 0.9, 0.05, 1.0, 0.0, 0.0), (2.0, 12, 0.5, 0.3, 1.0, 0.0, 0.0),
    (1.0, 0, 1.0, 0.0, 1.3, 0.0, 0.0), (0.9, 6, 0.95, 0.02, 1.2, 0.0, 0.0),
    (1.0, 0, 1.0, 0.0, 1.0, 0.6, 0.0), (1.0, 0, 1.0, 0.0, 1.0, 0.0, 0.4),
    (0.6, 8, 0.9, 0.0, 1.1, 0.5, 0.3), (1.0, 1, 1.0, 0.0, 1.0, 0.0, 0.0),
    (1.0, 0, 0.0, 0.0, 1.0, 0.0, 0.0), (1.0, 0, 1.0, 1.0, 1.0, 0.0, 0.0),
]


def leave(logits, ids, n_prompt, case):
    temperature, top_k, top_p, min_p, repetition, presence, frequency = case
    scores = logits.clone()[None]
    if repetition != 1:
        scores = lp.RepetitionPenaltyLogitsProcessor(repetition)(ids[None], scores)
    for i in ids[n_prompt:].unique():  # vLLM: of the answer alone, after the repetition penalty
        times = (ids[n_prompt:] == i).sum()
        scores[0, i] -= presence + frequency * times
    if temperature != 1:
        scores = lp.TemperatureLogitsWarper(temperature)(ids[None], scores)
    if top_k:
        scores = lp.TopKLogitsWarper(top_k)(ids[None], scores)
    if top_p < 1:
        scores = lp.TopPLogitsWarper(top_p)(ids[None], scores)
    if min_p:
        scores = lp.MinPLogitsWarper(min_p)(ids[None], scores)
    return scores[0].softmax(-1)


def row(values, form):
    return "{ " + ", ".join(form % float(v) for v in values) + " }"


lines = []
for case in CASES:
    logits = (torch.randn(VOCAB, dtype=torch.float64) * 2.5).float().double()
    ids = torch.randint(VOCAB, (10,))
    logits[3] = logits[11]  # a tie
    p = leave(logits, ids, 4, case)
    lines.append("    { { %s },\n      %s,\n      { %s },\n      %s }," % (
        ", ".join("%g" % x for x in case), row(logits, "%.9ef"),
        ", ".join(str(int(i)) for i in ids), row(p, "%.17g")))

text = """/* SPDX-License-Identifier: Apache-2.0
 * Written by make_sample_fixtures.py: logits, ids before (4 of a prompt, 6 of an answer), and the
 * probabilities that the libraries leave. */
static const struct {
    double how[7]; /* temperature, top_k, top_p, min_p, repetition, presence, frequency */
    float logits[%d];
    int32_t ids[10];
    double p[%d];
} cases[] = {
%s
};
""" % (VOCAB, VOCAB, "\n".join(lines))
out = []
for line in text.split("\n"):  # 100 columns
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    while len(line) > 99:
        cut = line.rfind(" ", 0, 99)
        out.append(line[:cut])
        line = indent + line[cut + 1:]
    out.append(line)
pathlib.Path(__file__).with_name("sample_cases.h").write_text("\n".join(out), encoding="utf-8")
