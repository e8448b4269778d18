#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turn a Hugging Face GPT-2 folder into one for this example.

Hugging Face stores GPT-2's products as "Conv1D", weights [in, out], with queries, keys and
values side by side in c_attn. mrun's `linear` takes [out, in], so weights are transposed and
c_attn is split in three. Needs numpy and safetensors.

    from_hf.py HF_DIR OUT_DIR
"""
import json
import pathlib
import shutil
import sys

import numpy as np

PRODUCTS = ("attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def convert(tensors):
    """{HF name: array} -> {name of this example: array}; gradients convert the same way."""
    out = {}
    for name, x in tensors.items():
        if not name.startswith("transformer."):
            name = "transformer." + name  # the published checkpoints leave it out
        if name.endswith((".attn.bias", ".attn.masked_bias", "lm_head.weight")):
            continue  # causal masks, and the tied copy of wte
        if ".attn.c_attn." in name:
            for part, y in zip("qkv", np.split(x, 3, axis=-1)):
                out[name.replace("c_attn", part + "_proj")] = np.ascontiguousarray(y.T)
        elif name.endswith(PRODUCTS):
            out[name] = np.ascontiguousarray(x.T)
        else:
            out[name] = np.ascontiguousarray(x)
    return out


def main(src, dst):
    from safetensors.numpy import load_file, save_file

    src, dst = pathlib.Path(src), pathlib.Path(dst)
    dst.mkdir(parents=True, exist_ok=True)
    save_file(convert(load_file(src / "model.safetensors")), dst / "model.safetensors")
    for f in ("config.json", "tokenizer.json"):
        if (src / f).exists():
            shutil.copy(src / f, dst / f)
    c = json.loads((dst / "config.json").read_text())
    print(f"{dst}: {c['n_layer']} layers, width {c['n_embd']}, vocabulary {c['vocab_size']}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
