#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make_corpus.py: seeds of the fuzz targets (corpus/NAME/), from the fixtures and by hand. Run
again when a target or a fixture changes; what a fuzzer finds is added beside the seeds, by a name
of what it broke."""
import base64
import json
import os
import struct

HERE = os.path.dirname(os.path.abspath(__file__))
FIXTURES = os.path.join(HERE, "..", "unit", "store", "fixtures")


def put(target, name, data):
    folder = os.path.join(HERE, "corpus", target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())


def file(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors():
    two = {"__metadata__": {"format": "pt"}, "a": tensor("F32", [2], 0, 8),
           "b": tensor("BF16", [3, 1], 8, 14)}
    put("safetensors", "two.safetensors", file(two, bytes(range(14))))
    put("safetensors", "empty.safetensors", file({"e": tensor("F32", [0, 7], 0, 0)}))
    put("safetensors", "misaligned.safetensors",
        file(json.dumps({"a": tensor("I64", [1], 0, 8)}).encode() + b" ", bytes(8)))
    put("safetensors", "overlap.safetensors",
        file({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 2, 6)}, bytes(6)))
    put("safetensors", "huge.safetensors",
        file({"a": tensor("F64", [1 << 40, 1 << 40], 0, 8)}, bytes(8)))
    put("safetensors", "header.json", json.dumps(two))
    put("safetensors", "header-twice.json", json.dumps(two)[:-1] + ", " + json.dumps(two)[1:])
    put("safetensors", "long-header.bin", struct.pack("<Q", 1 << 62) + b"{}")


def index():
    good = {"x": "a.safetensors", "y": "b.safetensors"}
    put("index", "good.json", json.dumps({"metadata": {"total_size": 24}, "weight_map": good}))
    put("index", "crossed.json", json.dumps({"weight_map": {"x": "b.safetensors",
                                                            "y": "a.safetensors"}}))
    put("index", "away.json", json.dumps({"weight_map": {**good, "z": "../a.safetensors"}}))
    put("index", "total.json", json.dumps({"metadata": {"total_size": 1e308}, "weight_map": good}))


def quant():
    for name in sorted(os.listdir(FIXTURES)):
        folder = os.path.join(FIXTURES, name)
        own = os.path.join(folder, "hf_quant_config.json")
        if os.path.exists(own):
            config = json.load(open(own))["quantization"]
        else:
            config = json.load(open(os.path.join(folder, "config.json")))["quantization_config"]
        weights = open(os.path.join(folder, "model.safetensors"), "rb").read()
        put("quant", name + ".bin", json.dumps(config).encode() + b"\n" + weights)
    put("quant", "gptq.json", json.dumps({"quant_method": "gptq", "bits": 4}))


LLAMA = {"vocab_size": 202048, "hidden_size": 5120, "intermediate_size": 8192,
         "intermediate_size_mlp": 16384, "num_hidden_layers": 48, "num_attention_heads": 40,
         "num_key_value_heads": 8, "head_dim": 128, "num_experts_per_tok": 1,
         "rms_norm_eps": 1e-5, "attention_chunk_size": 8192, "attn_temperature_tuning": 4,
         "floor_scale": 8192, "attn_scale": 0.1, "no_rope_layers": [],
         "tie_word_embeddings": False, "model_type": "llama4_text"}
KIMI = {"model_type": "kimi_k2", "vocab_size": 163840, "hidden_size": 7168,
        "num_hidden_layers": 61, "num_attention_heads": 64, "num_key_value_heads": 64,
        "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "intermediate_size": 18432, "moe_intermediate_size": 2048,
        "n_routed_experts": 384, "num_experts_per_tok": 8, "n_shared_experts": 1,
        "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 1, "topk_group": 1,
        "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": True,
        "routed_scaling_factor": 2.827, "rms_norm_eps": 1e-6, "rope_theta": 50000.0,
        "max_position_embeddings": 131072, "rope_scaling": {
            "type": "yarn", "factor": 32.0, "beta_fast": 1.0, "beta_slow": 1.0, "mscale": 1.0,
            "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096}}
LLAMA3 = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0,
          "original_max_position_embeddings": 8192}


def config():
    small = {"num_hidden_layers": 4, "vocab_size": 64, "hidden_size": 32, "intermediate_size": 16,
             "moe_intermediate_size": 8, "num_attention_heads": 4}
    put("config", "scout.json", json.dumps(
        {"model_type": "llama4", "text_config": {**LLAMA, "num_local_experts": 16,
         "interleave_moe_layer_step": 1, "use_qk_norm": True, "rope_theta": 500000.0,
         "rope_scaling": LLAMA3}}))
    put("config", "maverick.json", json.dumps(
        {**LLAMA, "num_local_experts": 128, "interleave_moe_layer_step": 2, "use_qk_norm": False,
         "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}))
    put("config", "small-llama4.json", json.dumps({**LLAMA, **small, "num_local_experts": 4,
                                                   "num_key_value_heads": 2, "head_dim": 8}))
    put("config", "kimi.json", json.dumps(KIMI))
    put("config", "small-deepseek.json", json.dumps({**KIMI, **small, "model_type": "deepseek_v3",
                                                     "num_key_value_heads": 4}))
    put("config", "negative.json", json.dumps({**KIMI, "hidden_size": -5}))
    put("config", "vast.json", json.dumps({**LLAMA, **small, "vocab_size": 1 << 52,
                                           "hidden_size": 1 << 50, "head_dim": 1 << 48}))
    put("config", "words.json", json.dumps({k: "x" for k in {**KIMI, **LLAMA}}))


def image():
    """One of each kind of file, and what the header of a bomb looks like."""
    folder = os.path.join(HERE, "..", "unit", "image", "fixtures")
    for name in sorted(os.listdir(folder)):
        if name.endswith((".png", ".jpg")) and not name.startswith("turned"):
            put("image", name, open(os.path.join(folder, name), "rb").read())
    small = open(os.path.join(folder, "rgb.png"), "rb").read()
    put("image", "bomb.png", small[:16] + struct.pack(">II", 1 << 30, 1 << 30) + small[24:])


def tokenizer():
    """Small ones of each kind: all bytes and a few merges; every part that a file may have."""
    signs = [c for c in range(256) if 33 <= c <= 126 or 161 <= c <= 172 or 174 <= c]
    letter = {b: chr(b) for b in signs}
    letter.update({b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in letter)})
    vocab = {letter[b]: b for b in range(256)}
    merges = [["t", "h"], ["th", "e"], [letter[32], "c"]]
    for i, (a, b) in enumerate(merges):
        vocab[a + b] = 256 + i
    end = {"id": 259, "content": "<|end|>", "single_word": False, "lstrip": False,
           "rstrip": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": True}
    split = {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}|\\s+(?!\\S)|[^\\s]+"},
             "behavior": "Isolated", "invert": False}
    ends = {"type": "TemplateProcessing", "pair": [], "special_tokens":
            {"<|end|>": {"id": "<|end|>", "ids": [259], "tokens": ["<|end|>"]}},
            "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}}]}
    # what a fuzzer changes comes first: the beginnings that replay.c makes are of that
    plain = {"pre_tokenizer": level, "normalizer": None, "added_tokens": [end], "decoder": level,
             "model": {"type": "BPE", "merges": merges, "vocab": vocab}}
    parts = {**plain, "normalizer": {"type": "NFC"}, "post_processor": ends, "pre_tokenizer": {
        "type": "Sequence", "pretokenizers": [split, {**level, "use_regex": False}]}}
    words = [" ".join(m) for m in merges]

    def variant(name, **over):
        put("tokenizer", name, json.dumps({**plain, **over}, ensure_ascii=False))

    variant("plain.json")
    put("tokenizer", "parts.json", json.dumps(parts))
    variant("merges-of-words.json", model={**plain["model"], "merges": words})
    variant("far-id.json", model={**plain["model"], "vocab": {**vocab, "far": 1 << 60}})
    variant("id-twice.json", model={**plain["model"], "vocab": {**vocab, "twice": 3}})
    variant("no-such-merge.json", model={**plain["model"], "merges": [["xyz", "th"]]})
    variant("slow-regex.json", pre_tokenizer={**split, "pattern": {"Regex": "(\\S+)*(?=b)|\\s+"}})
    variant("bad-regex.json", pre_tokenizer={**split, "pattern": {"Regex": "(?<n>[\\p{Q"}})
    put("tokenizer", "deep.json", "[" * 3000)

    def rank_file(tokens, name):
        put("tokenizer", name, b"".join(base64.b64encode(t) + b" %d\n" % i
                                        for i, t in enumerate(tokens)))

    all_bytes = [bytes([b]) for b in range(256)]
    rank_file(all_bytes + [b"th", b"the", b" c", b"\xe4\xbd"], "ranks.ranks.bin")
    rank_file(all_bytes[:255], "a-byte-short.ranks.bin")
    rank_file(all_bytes + [b"th", b"th"], "twice.ranks.bin")
    put("tokenizer", "far.ranks.bin", b"IQ== 0\nIg== 99999999999999999999\n")
    put("tokenizer", "no-base64.ranks.bin", b"I?== 0\n=\n \n\x00 1")


if __name__ == "__main__":
    image()
    tokenizer()
    safetensors()
    index()
    quant()
    config()
