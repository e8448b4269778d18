#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Add greedy.safetensors to tests/parity/fixtures: what transformers writes after prompts.

Run by hand after make_parity_fixtures.py, whose folders it reads and does not change. Needs torch
and transformers. Each file holds N prompts and their continuations, end to end:
  prompt i32 [sum of prompt_n]   prompt_n i32 [N]
  next   i32 [sum of next_n]     next_n   i32 [N]   up to and with the end-of-text id, if it came
The prompts are the fixture's own sequences, and two short ones. transformers' generate() writes
greedily, in double and without a cache, so that what is expected has no rounding and no cache of
its own; where the best two ids are close, the continuation ends before.
"""
import pathlib
import sys

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

import make_parity_fixtures as parity

FOLDER = parity.ROOT / "tests" / "parity" / "fixtures"
WRITE, MIN_GAP = 16, 1e-3


def gpt2_names(tensors):
    """The other way round than examples/gpt2/from_hf.py."""
    out = {}
    for name, x in tensors.items():
        if ".attn.q_proj." in name:
            parts = [tensors[name.replace("q_proj", p + "_proj")].T for p in "qkv"]
            out[name.replace("q_proj", "c_attn")] = np.concatenate(parts, axis=-1)
        elif ".attn.k_proj." not in name and ".attn.v_proj." not in name:
            turned = name.endswith(parity.gpt2_from_hf.PRODUCTS)
            out[name] = np.ascontiguousarray(x.T) if turned else x
    return out


def load(folder):
    if folder.name != "gpt2":
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager",
            experts_implementation="eager").eval()
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config.from_pretrained(folder))
    tensors = gpt2_names(load_file(folder / "model.safetensors"))
    missing = model.load_state_dict({n: torch.from_numpy(x) for n, x in tensors.items()}, False)
    assert missing.missing_keys in ([], ["lm_head.weight"]) and not missing.unexpected_keys
    return model.eval()


def prompts(folder, vocab):
    e = load_file(folder / "expect.safetensors")
    starts = np.flatnonzero(e["positions"] == 0)
    own = [s.tolist() for s in np.split(e["ids"], starts[1:])]
    return own + [[vocab - 1], [3, 1, 4, 1, 5]]


def continuation(model, ids, most):
    out = model.generate(torch.tensor([ids]), do_sample=False, use_cache=False,
                         max_new_tokens=most, output_logits=True, return_dict_in_generate=True)
    new = out.sequences[0, len(ids):].tolist()
    for i, logits in enumerate(out.logits):
        best = torch.topk(logits[0], 2).values
        if best[0] - best[1] < MIN_GAP * best[0].abs():
            return new[:i]
    return new


def make(folder):
    model = load(folder)
    vocab, room = model.config.vocab_size, model.config.max_position_embeddings
    asked, given = [], []
    with torch.no_grad(), parity.in_double(model):
        for ids in prompts(folder, vocab):
            most = min(WRITE, room - len(ids))
            new = continuation(model, ids, most) if most > 0 else []
            if new:
                asked.append(ids)
                given.append(new)
    flat = {"prompt": sum(asked, []), "prompt_n": [len(x) for x in asked],
            "next": sum(given, []), "next_n": [len(x) for x in given]}
    save_file({n: np.array(x, dtype=np.int32) for n, x in flat.items()},
              folder / "greedy.safetensors")
    return [len(x) for x in given]


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for name in sys.argv[1:] or sorted(p.name for p in FOLDER.iterdir() if p.is_dir()):
        print(name, make(FOLDER / name), flush=True)


if __name__ == "__main__":
    main()
