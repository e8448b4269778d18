#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make_fixtures.py: quantised folders, and what their own libraries read out of them.

Run once by hand (needs torch, safetensors, transformers, compressed-tensors, nvidia-modelopt);
writes fixtures/NAME/ beside this file: config.json and model.safetensors as the library writes
them, and expected.safetensors with the numbers that the library's own dequantisation gives, as
f32. No number comes from our code. Ragged blocks of fp8 are what transformers does not read: there
every scale is repeated over its block and multiplied in f32, as DeepSeek's kernel does.
"""
import json
import os

import torch
from compressed_tensors.compressors import (
    BaseCompressor,
)
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from modelopt.torch.quantization.qtensor import FP8QTensor, NVFP4QTensor
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")
PLAIN = torch.linspace(-1, 1, 24).reshape(4, 6).to(torch.bfloat16)  # a module left alone


def write(name, quantization, tensors, expected, own_file=False):
    folder = os.path.join(HERE, name)
    os.makedirs(folder, exist_ok=True)
    config = {"model_type": "fixture"}
    if own_file:
        with open(os.path.join(folder, "hf_quant_config.json"), "w") as f:
            json.dump({"producer": {"name": "modelopt", "version": "0"},
                       "quantization": quantization}, f, indent=1)
    else:
        config["quantization_config"] = quantization
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
    tensors["lm_head.weight"], expected["lm_head.weight"] = PLAIN, PLAIN.float()
    save_file({k: v.contiguous() for k, v in tensors.items()},
              os.path.join(folder, "model.safetensors"))
    save_file({k: v.float().contiguous() for k, v in expected.items()},
              os.path.join(folder, "expected.safetensors"))


def every_code(rows, cols):
    """e4m3 of all 256 codes, NaNs among them"""
    return (torch.arange(rows * cols) % 256).to(torch.uint8).reshape(rows, cols).view(
        torch.float8_e4m3fn)


def spread(scales, rows, cols, block):
    big = scales.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return big[:rows, :cols]


# ---- fp8 in blocks --------------------------------------------------------------------------
def fp8_block():
    even, ragged = every_code(32, 48), every_code(35, 50)
    s_even = torch.rand(2, 3) * 0.01
    s_ragged = torch.rand(3, 4) * 0.01
    read = Fp8Dequantize(None)._dequantize_one
    write("fp8-block",
          {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
           "weight_block_size": [16, 16]},
          {"a.weight": even, "a.weight_scale_inv": s_even,
           "b.weight": ragged, "b.weight_scale_inv": s_ragged},
          {"a.weight": read(even, s_even),
           "b.weight": ragged.float() * spread(s_ragged, 35, 50, (16, 16))})


# ---- compressed-tensors ---------------------------------------------------------------------
def args_json(args):
    return json.loads(args.model_dump_json(exclude_none=True))


def compressed(name, fmt, weights, rows=20, cols=96, scale_dtype=torch.bfloat16):
    args = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    codec = BaseCompressor.get_value_from_registry(fmt)
    tensors, expected = {}, {}
    for stem in ("a.", "b."):
        w = (torch.randn(rows, cols) * 0.05).to(torch.bfloat16)
        state = {"weight": w}
        strategy = str(args.strategy)
        if strategy == "tensor_group":
            g = w.reshape(rows, -1, args.group_size).float()
            state["weight_global_scale"] = generate_gparam(w.float().amin().reshape(1),
                                                           w.float().amax().reshape(1))
            low, high = g.amin(-1), g.amax(-1)
            scale, zero = calculate_qparams(low, high, args,
                                            global_scale=state["weight_global_scale"])
        else:
            if strategy == "group":
                g = w.reshape(rows, -1, args.group_size).float()
                low, high = g.amin(-1), g.amax(-1)
            elif strategy == "channel":
                low, high = w.float().amin(-1, True), w.float().amax(-1, True)
            elif strategy == "block":
                r, c = args.block_structure
                g = w.float().reshape(rows // r, r, cols // c, c)
                low, high = g.amin((1, 3)), g.amax((1, 3))
            else:
                low, high = w.float().amin().reshape(1), w.float().amax().reshape(1)
            scale, zero = calculate_qparams(low, high, args)
        if strategy != "tensor_group":
            scale = scale.to(scale_dtype)
        state["weight_scale"] = scale
        if not args.symmetric:
            state["weight_zero_point"] = zero.to(torch.int8)
        packed = codec.compress(state, scheme)
        for key, value in packed.items():
            if torch.is_tensor(value):
                tensors[stem + key] = value
        expected[stem + "weight"] = codec.decompress(packed, scheme)["weight"]
    write(name,
          {"quant_method": "compressed-tensors", "format": fmt, "quantization_status": "compressed",
           "config_groups": {"group_0": {"targets": ["Linear"], "weights": args_json(args),
                                         "input_activations": None}},
           "ignore": ["lm_head"]}, tensors, expected)


# ---- ModelOpt -------------------------------------------------------------------------------
def modelopt():
    w = torch.randn(12, 64) * 0.05
    q, scale = FP8QTensor.quantize(w)
    write("modelopt-fp8", {"quant_algo": "FP8", "kv_cache_quant_algo": None,
                           "exclude_modules": ["lm_head"]},
          {"a.weight": q._quantized_data, "a.weight_scale": scale.reshape(()),
           "a.input_scale": torch.tensor(1.0)},
          {"a.weight": q.dequantize(torch.float32, scale=scale)}, own_file=True)
    q, scale, double = NVFP4QTensor.quantize(w, 16, try_tensorrt=False)
    write("modelopt-nvfp4", {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16,
                             "ignore": ["lm_head"]},
          {"a.weight": q._quantized_data, "a.weight_scale": scale, "a.weight_scale_2": double,
           "a.input_scale": torch.tensor(1.0)},
          {"a.weight": q.dequantize(torch.float32, scale=scale, double_scale=double,
                                    block_sizes={-1: 16})})


def modelopt_fused():
    """Llama 4's experts [E, in, out]: ModelOpt packs along `in` and hands the bytes back so"""
    w = torch.randn(2, 32, 10) * 0.05
    q, scale, double = NVFP4QTensor.quantize(w.transpose(1, 2).contiguous(), 16,
                                             try_tensorrt=False)
    read = q.dequantize(torch.float32, scale=scale, double_scale=double, block_sizes={-1: 16})
    name = "l.experts.gate_up_proj"
    write("modelopt-nvfp4-fused", {"quant_method": "modelopt", "quant_algo": "NVFP4",
                                   "group_size": 16, "ignore": ["lm_head"]},
          {name: q._quantized_data.transpose(1, 2), name + "_weight_scale": scale.transpose(1, 2),
           name + "_weight_scale_2": double, name + "_input_scale": torch.tensor(1.0)},
          {name: read.transpose(1, 2)})


def main():
    torch.manual_seed(7)
    fp8_block()
    ints = {"num_bits": 4, "type": "int", "symmetric": True}
    compressed("int4", "pack-quantized", {**ints, "strategy": "group", "group_size": 32})
    compressed("int4-zeros", "pack-quantized",
               {**ints, "symmetric": False, "strategy": "group", "group_size": 32})
    compressed("int4-channel", "pack-quantized", {**ints, "strategy": "channel"}, cols=90,
               scale_dtype=torch.float16)
    compressed("int8-packed", "pack-quantized", {**ints, "num_bits": 8, "strategy": "channel"},
               cols=50, scale_dtype=torch.float32)
    compressed("int8", "int-quantized", {**ints, "num_bits": 8, "strategy": "channel"})
    floats = {"num_bits": 8, "type": "float", "symmetric": True}
    compressed("fp8-channel", "float-quantized", {**floats, "strategy": "channel"})
    compressed("fp8-tensor", "float-quantized", {**floats, "strategy": "tensor"})
    compressed("fp8-compressed-block", "float-quantized",
               {**floats, "strategy": "block", "block_structure": [4, 32]})
    compressed("nvfp4", "nvfp4-pack-quantized",
               {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group",
                "group_size": 16})
    modelopt()
    modelopt_fused()


if __name__ == "__main__":
    main()
