#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""check_pictures.py [--seed N]: from a text and picture files to logits and gradients, as
transformers has them.

For a random small model of each kind of tower (Llama 4, CLIP and SigLIP in LLaVA) transformers
saves model, tokenizer and processor into a folder, makes pictures as PNG and JPEG, and computes
logits, loss and gradients of a text with their placeholders (in fp32, eager attention). Then
  mrun score --hf DIR --text TEXT --image FILE ... --logits OUT --grad OUT
must give the same ids, and logits and gradients to TOLERANCE of the largest value of each tensor,
`mrun generate` must go on as transformers does greedily, and a picture that is changed must change
the logits.

Run by hand, with MRUN_EXE and MRUN_PLUGIN_PATH as tests have them. Needs torch, torchvision,
transformers 5 and pillow.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers.core_model_loading import revert_weight_conversion

TOLERANCE = 2e-5
WORDS = ["<|begin|>", "<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>",
         "<|tile_x_separator|>", "<|tile_y_separator|>", "<image>"]
TEXT = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=2048, vocab_size=272)


def tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    t = Tokenizer(models.BPE(vocab={a: i for i, a in enumerate(alphabet)}, merges=[]))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    t.add_special_tokens(WORDS)
    begin = t.token_to_id(WORDS[0])
    t.post_processor = processors.TemplateProcessing(
        single=f"{WORDS[0]} $A", special_tokens=[(WORDS[0], begin)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=t, bos_token=WORDS[0],
                                                model_max_length=4096)


def llama4(tok):
    vision = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
                  image_size=28, patch_size=7, pixel_shuffle_ratio=0.5, projector_input_dim=24,
                  projector_output_dim=24, vision_output_dim=24, num_channels=3)
    text = dict(TEXT, head_dim=8, intermediate_size_mlp=48, num_local_experts=4,
                num_experts_per_tok=1, interleave_moe_layer_step=2, attention_chunk_size=512,
                use_qk_norm=True, no_rope_layers=[1, 0], bos_token_id=tok.bos_token_id,
                eos_token_id=None, pad_token_id=None, moe_layers=[1])
    config = transformers.Llama4Config(
        vision_config=vision, text_config=text,
        image_token_index=tok.convert_tokens_to_ids("<|patch|>"))
    images = transformers.Llama4ImageProcessor(size={"height": 28, "width": 28}, max_patches=6)
    processor = transformers.Llama4Processor(images, tok, patch_size=7)
    return transformers.Llama4ForConditionalGeneration, config, processor, "<|image|>"


def llava(tok, tower):
    vision = dict(model_type=f"{tower}_vision_model", hidden_size=16, num_hidden_layers=3,
                  num_attention_heads=2, intermediate_size=40, image_size=28, patch_size=7)
    select = "default" if tower == "clip" else "full"
    if tower == "siglip":
        vision["vision_use_head"] = False
    text = dict(TEXT, model_type="llama", head_dim=8, bos_token_id=tok.bos_token_id,
                eos_token_id=None, pad_token_id=None)
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_seq_length=16,
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2 if tower == "clip" else -1, vision_feature_select_strategy=select)
    if tower == "clip":
        images = transformers.CLIPImageProcessor(size={"shortest_edge": 28},
                                                 crop_size={"height": 28, "width": 28})
    else:
        images = transformers.SiglipImageProcessor(size={"height": 28, "width": 28})
    processor = transformers.LlavaProcessor(
        images, tok, patch_size=7, vision_feature_select_strategy=select,
        num_additional_image_tokens=1 if tower == "clip" else 0)
    return transformers.LlavaForConditionalGeneration, config, processor, "<image>"


def pictures(folder, g):
    made = []
    for i, (w, h) in enumerate([(28, 28), (75, 40), (33, 90)]):
        x = g.integers(0, 256, (h // 4 + 1, w // 4 + 1, 3), dtype=np.uint8)
        image = Image.fromarray(x).resize((w, h), Image.Resampling.BICUBIC)
        name = str(folder / f"{i}.{'jpg' if i == 1 else 'png'}")
        image.save(name)
        made.append(name)
    return made


def mrun(*args):
    done = subprocess.run([os.environ["MRUN_EXE"], *args], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"mrun {' '.join(args)}\n{done.stderr}")
    return json.loads(done.stdout)


def off(a, b):
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-6))


def check_chat(model, processor, folder, files):
    """Two pictures and a question through the chat template."""
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "which?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}],
                                         add_generation_prompt=True, tokenize=False)
    seen = processor(text=[text], images=[Image.open(f) for f in files], return_tensors="pt",
                     add_special_tokens=False)
    n = seen["input_ids"].shape[1]
    want = model.generate(input_ids=seen["input_ids"], max_new_tokens=8, do_sample=False,
                          pixel_values=seen["pixel_values"].float())[0, n:].tolist()
    got = mrun("generate", "--hf", folder, "--chat", "--prompt", "which?", "--image", files[0],
               "--image", files[1], "--max-tokens", "8", "--temperature", "0", "--json", "-q",
               "--set", "backend.plugin=cpu")
    assert got["ids"] == want, f"chat: goes on with {got['ids']}, not {want}"


def check(name, make, seed):
    torch.manual_seed(seed)
    g = np.random.default_rng(seed)
    kind, config, processor, word = make(tokenizer())
    for c in (config, config.text_config, config.vision_config):
        c._attn_implementation = "eager"
    model = kind(config).float().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    with tempfile.TemporaryDirectory() as tmp:
        folder = pathlib.Path(tmp)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        files = pictures(folder, g)
        text = f"one {word} two {word}{word} done"
        seen = processor(text=[text], images=[Image.open(f) for f in files], return_tensors="pt")
        ids = seen["input_ids"][0]
        pixels = seen["pixel_values"].float()
        logits = model(input_ids=ids[None], pixel_values=pixels).logits[0]
        loss = torch.nn.functional.cross_entropy(logits[:-1], ids[1:])
        loss.backward()
        shown = [x for f in files for x in ("--image", f)]
        out = mrun("score", "--hf", tmp, "--text", text, *shown, "--logits", f"{tmp}/l.safetensors",
                   "--grad", f"{tmp}/g.safetensors", "--set", "backend.plugin=cpu")
        assert out["ids"] == ids.tolist(), f"{name}: ids differ"
        got = load_file(f"{tmp}/l.safetensors")["logits"]
        worst = {"logits": off(got, logits.detach().numpy())}
        grads = load_file(f"{tmp}/g.safetensors")
        saved = load_file(folder / "model.safetensors")
        mine = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        names = revert_weight_conversion(model, mine)  # as the folder calls them
        for n, want in names.items():
            assert n in saved, n
            if n.endswith("k_proj.bias"):
                continue  # softmax does not see it: both gradients are noise around 0
            assert grads[n].shape == want.shape, (n, grads[n].shape)
            worst[n] = off(grads[n], want.numpy())
        ids_on = model.generate(input_ids=ids[None], pixel_values=pixels, max_new_tokens=8,
                                do_sample=False)[0, len(ids):].tolist()
        on = mrun("generate", "--hf", tmp, "--prompt", text, *shown, "--max-tokens", "8",
                  "--temperature", "0", "--json", "-q", "--set", "backend.plugin=cpu")
        assert on["ids"] == ids_on, f"{name}: goes on with {on['ids']}, not {ids_on}"
        if name == "llama4":
            check_chat(model, processor, tmp, files[:2])
        Image.fromarray(255 - np.asarray(Image.open(files[0]))).save(files[0])
        mrun("score", "--hf", tmp, "--text", text, *shown, "--logits", f"{tmp}/l.safetensors",
             "--set", "backend.plugin=cpu")
        assert off(load_file(f"{tmp}/l.safetensors")["logits"], got) > 10 * TOLERANCE
    bad = max(worst, key=worst.get)
    print(f"{name}: {len(ids)} ids, {len(pixels)} tiles, {len(worst)} tensors, logits off by "
          f"{worst['logits']:.1e}, at most {worst[bad]:.1e} ({bad})", flush=True)
    assert worst[bad] < TOLERANCE, f"{name}: {bad}"


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--seed", type=int, default=1)
    seed = args.parse_args().seed
    check("llama4", llama4, seed)
    check("llava-clip", lambda tok: llava(tok, "clip"), seed)
    check("llava-siglip", lambda tok: llava(tok, "siglip"), seed)


if __name__ == "__main__":
    main()
