#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make_big_folder.py DIR [SHARDS] [TENSORS]: a sharded folder of sparse files, to measure what it
costs to open and validate one (`mrun inspect DIR`). The tensors are a mixture of experts' by name,
bf16 [2048, 7168] each; the files take no room on disk.
"""
import json
import os
import sys


def main():
    folder = sys.argv[1]
    shards = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    tensors = int(sys.argv[3]) if len(sys.argv) > 3 else 100_000
    shape = [2048, 7168]
    size = 2 * shape[0] * shape[1]
    os.makedirs(folder, exist_ok=True)
    weight_map = {}
    for s in range(shards):
        file = f"model-{s + 1:05d}-of-{shards:05d}.safetensors"
        header, at = {"__metadata__": {"format": "pt"}}, 0
        for i in range(s * tensors // shards, (s + 1) * tensors // shards):
            layer, rest = divmod(i, 1152)
            expert, kind = divmod(rest, 3)
            word = ("gate", "up", "down")[kind]
            name = f"model.layers.{layer}.mlp.experts.{expert}.{word}_proj.weight"
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
            weight_map[name] = file
            at += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(folder, file), "wb") as f:
            f.write(len(text).to_bytes(8, "little") + text)
            f.truncate(8 + len(text) + at)
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": tensors * size}, "weight_map": weight_map}, f,
                  indent=2)


if __name__ == "__main__":
    main()
