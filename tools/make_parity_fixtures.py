#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make tests/parity/fixtures: tiny models, and what transformers computes with them.

Run by hand when a family or a variant is added; the fixtures are committed. Needs torch and
transformers (at least 4.56.1: earlier ones route Llama 4 wrongly). Each folder holds
  config.json         as transformers writes it
  model.safetensors   fp32 weights under the names that transformers saves them by
                      (gpt2: those that mrun's family gives them)
  expect.safetensors  several sequences laid end to end, T tokens in all:
    ids positions seq_start targets  i32 [T]   targets: -1 after a sequence's last token
    loss_weight f32 [T]                        1 where there is a target, else 0
    logits f32 [T,V]  nll f32 [T]              nll 0 where there is no target
    loss f32 [1]                               mean of nll over the counted tokens
    grad.NAME f32                              d loss / d NAME, a parameter of mrun's family
  and, where pictures are read,
    pixels f32 [N,3,S,S]  image_rows i32 [T]   all tiles; the row of the features, or -1
    greedy i32 [n]                             what the last sequence goes on with, greedily
Without auxiliary losses: transformers does not add them.

transformers' own code computes all of it, but in double: the fp32 weights are widened, and the
casts to float inside the models are made casts to double (DeepSeek-V3's rotary frequencies are
computed again that way, too). So what differs from the expectation
is the rounding of the program under test alone. A gradient that is zero in exact arithmetic
(a key bias without rotary positions) is noise near 1e-17 here: compare against the scale of all
gradients, not its own.

Weights are drawn wider than a real model's, so that attention is far from uniform and experts
are far apart; a draw in which a token's k-th and next expert are close is thrown away, since
rounding could then decide the route.
"""
import argparse
import contextlib
import json
import pathlib
import sys

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples" / "gpt2"))
import from_hf as gpt2_from_hf  # noqa: E402

MIN_ROUTE_GAP = 1e-2
DEEPSEEK_ROUTE_GAP = 2e-3  # its scores lie in (0, 1), so more of them are near each other

LLAMA4 = dict(
    vocab_size=50, hidden_size=24, intermediate_size=20, intermediate_size_mlp=36,
    num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    num_local_experts=4, num_experts_per_tok=1, interleave_moe_layer_step=2,
    no_rope_layer_interval=4, use_qk_norm=True, attention_chunk_size=8,
    attn_temperature_tuning=True, floor_scale=4, attn_scale=0.1, rms_norm_eps=1e-5,
    max_position_embeddings=512, tie_word_embeddings=False, attention_bias=False,
    # a padding token's embedding gets no gradient in torch: there is none
    pad_token_id=None, bos_token_id=1, eos_token_id=2)

ROPE = dict(rope_type="default", rope_theta=10000.0)
# wavelengths of head_dim 8 are 6.3, 63, 628 and 6283 tokens
SCOUT_ROPE = dict(rope_type="llama3", rope_theta=10000.0, factor=16.0, low_freq_factor=1.0,
                  high_freq_factor=1.0, original_max_position_embeddings=32)
SMOOTH_ROPE = dict(SCOUT_ROPE, high_freq_factor=4.0, original_max_position_embeddings=128)

# name: (config over LLAMA4, rope, lengths in tokens of the sequences)
CHUNKY = [1, 7, 8, 9, 26]  # 1, chunk - 1, chunk, chunk + 1, 3 chunks + 2
VARIANTS = {
    # dense and MoE layers in turn, RoPE with chunks, one NoPE layer with temperature
    "llama4-base": ({}, SCOUT_ROPE, CHUNKY),
    # Maverick: no QK norm, plain RoPE
    "llama4-maverick": (dict(use_qk_norm=False, num_hidden_layers=2, no_rope_layer_interval=2),
                        ROPE, CHUNKY),
    # Scout: every layer MoE; a frequency in the interpolated band
    "llama4-scout": (dict(interleave_moe_layer_step=1, num_hidden_layers=2,
                          no_rope_layer_interval=2), SMOOTH_ROPE, CHUNKY),
    # two experts a token, NoPE every second layer
    "llama4-top2": (dict(num_experts_per_tok=2, no_rope_layer_interval=2), SCOUT_ROPE, CHUNKY),
    # tied head, biases, no temperature, three query heads on one kv head, all dense
    "llama4-tied": (dict(tie_word_embeddings=True, attention_bias=True, num_hidden_layers=2,
                         attn_temperature_tuning=False, num_attention_heads=3,
                         num_key_value_heads=1, no_rope_layers=[0, 1], moe_layers=[]),
                    ROPE, CHUNKY),
    # a padding id: torch does not train its row of the embedding
    "llama4-pad": (dict(pad_token_id=3, num_hidden_layers=2, no_rope_layer_interval=2), ROPE,
                   CHUNKY),
    # experts in fp8, a tensor each and transposed, as compressed-tensors writes them; what is
    # computed is with the numbers that they stand for
    "llama4-split": (dict(num_hidden_layers=2, no_rope_layer_interval=2, num_experts_per_tok=2),
                     ROPE, CHUNKY),
}

DEEPSEEK = dict(
    vocab_size=50, hidden_size=24, intermediate_size=36, moe_intermediate_size=10,
    num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3, q_lora_rank=14,
    kv_lora_rank=10, qk_nope_head_dim=6, qk_rope_head_dim=8, v_head_dim=5, n_routed_experts=8,
    n_shared_experts=1, num_experts_per_tok=2, first_k_dense_replace=1, n_group=2, topk_group=1,
    norm_topk_prob=True, routed_scaling_factor=2.5, rms_norm_eps=1e-6, attention_bias=False,
    rope_interleave=True, max_position_embeddings=1024, tie_word_embeddings=False,
    pad_token_id=None, bos_token_id=1, eos_token_id=2)

# of the four frequencies one is kept, one joins, two are slowed
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, beta_fast=32.0, beta_slow=1.0,
            mscale=1.0, mscale_all_dim=1.0, original_max_position_embeddings=256)
# the two betas are equal: a step
KIMI_YARN = dict(YARN, rope_theta=50000.0, factor=8.0, beta_fast=1.0,
                 original_max_position_embeddings=64)

SOME = [1, 2, 9, 23]
DEEPSEEK_VARIANTS = {
    # a dense and two MoE layers, latent queries, YaRN, two groups of experts, correction bias
    "deepseek-base": (dict(num_hidden_layers=3), YARN, SOME),
    # Kimi-K2: no groups, its scale and frequencies
    "kimi": (dict(n_group=1, topk_group=1, routed_scaling_factor=2.827), KIMI_YARN, SOME),
    # queries straight from the residual stream, plain rotary positions
    "deepseek-direct": (dict(q_lora_rank=None), ROPE, SOME),
    # a shared expert of two widths, weights not normalised, all layers MoE
    "deepseek-shared": (dict(n_shared_experts=2, norm_topk_prob=False, first_k_dense_replace=0),
                        YARN, SOME),
    # the latents' norms keep their own epsilon; biases; tied head
    "deepseek-eps": (dict(rms_norm_eps=1e-2, attention_bias=True, tie_word_embeddings=True), YARN,
                     SOME),
    # no scale of scores: cosines and sines grow instead
    "deepseek-mscale": (dict(n_group=1, topk_group=1), dict(YARN, mscale_all_dim=0.0), SOME),
    # three experts of two groups of four: a group is worth its best two, not k / groups
    "deepseek-groups": (dict(n_group=4, topk_group=2, num_experts_per_tok=3), YARN, SOME),
    # more experts than the groups of a token hold: all of them; padding's row is not trained
    "deepseek-all": (dict(num_experts_per_tok=8, pad_token_id=0), YARN, SOME),
}


VISION = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16,
              patch_size=4, num_channels=3)
# head_dim 8: two frequencies a direction; 4 x 4 patches, 4 tokens a tile
LLAMA4_VISION = dict(
    VISION, intermediate_size=64, projector_input_dim=20, projector_output_dim=20,
    vision_output_dim=20, pixel_shuffle_ratio=0.5, norm_eps=1e-5, rope_theta=10000.0,
    multi_modal_projector_bias=False, projector_dropout=0.0, attention_dropout=0.0,
    hidden_act="gelu")
LLAMA = dict(
    vocab_size=50, hidden_size=24, intermediate_size=36, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=6, rms_norm_eps=1e-5,
    max_position_embeddings=512, pad_token_id=None, bos_token_id=1, eos_token_id=2)
IMAGE = 5  # the placeholder

# name: (tower, sequences as text lengths and tiles: [3, "1", 2] is 3 ids, a tile, 2 ids)
VLM_VARIANTS = {
    "llama4-vlm-tile": ("llama4", [[3], [2, "1", 5]]),
    # a picture of 2 x 1 tiles and its global tile, with separators between, after one of one tile
    "llama4-vlm-tiles": ("llama4", [[1, "1", 6], [4, "1", 1, "1", 1, "1", 4]]),
    "llava-clip": ("clip", [[4], [2, "1", 3, "1", 4]]),
    "llava-siglip": ("siglip", [["1", 5], [3, "1", 6]]),
}


def redraw(model, seed):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1:
                p.normal_(0, 0.2, generator=g)
            else:
                p.normal_(0, 0.1, generator=g)
                if "norm" in name or ".ln_" in name:
                    if name.endswith("weight"):
                        p.add_(1)
        for name, b in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                b.normal_(0, 0.3, generator=g)


def gap_after(x, k):
    """Smallest distance between the k-th and the next value of any row."""
    if k == x.shape[-1]:
        return float("inf")
    top = torch.topk(x, k + 1, dim=-1).values
    return (top[..., k - 1] - top[..., k]).min().item()


def deepseek_gap(gate, logits, k):
    """The same of a router that chooses groups first: of the groups, and inside those chosen."""
    score = logits.sigmoid() + gate.e_score_correction_bias
    groups = score.view(len(score), gate.num_group, -1)
    worth = groups.topk(2, dim=-1).values.sum(dim=-1)
    chosen = worth >= worth.topk(gate.topk_group, dim=-1).values[:, -1:]
    inside = groups.masked_fill(~chosen[..., None], -100.0).flatten(1)
    return min(gap_after(worth, gate.topk_group), gap_after(inside, k))


def route_gap(model, k, run):
    """Smallest distance between the k-th and the next candidate of any router and token."""
    gaps, hooks = [float("inf")], []

    def look(module, args, out):
        gaps.append(gap_after(out[1], k))

    def look_deepseek(module, args, out):
        gaps.append(deepseek_gap(module, out[0], k))

    for name, module in model.named_modules():
        if name.endswith("feed_forward.router"):
            hooks.append(module.register_forward_hook(look))
        if name.endswith("mlp.gate"):
            hooks.append(module.register_forward_hook(look_deepseek))
    result = run()
    for h in hooks:
        h.remove()
    return min(gaps), result


def forward(model, sequences):
    """Each sequence alone (no padding); logits and nll of all, end to end."""
    logits, nll = [], []
    for ids in sequences:
        out = model(input_ids=ids[None], use_cache=False).logits[0]
        logp = torch.log_softmax(out[:-1], dim=-1)
        nll.append(-logp[torch.arange(len(ids) - 1), ids[1:]])
        nll.append(torch.zeros(1, dtype=out.dtype))
        logits.append(out)
    return torch.cat(logits), torch.cat(nll)


@contextlib.contextmanager
def in_double(model):
    to_float, float32 = torch.Tensor.float, torch.float32
    torch.Tensor.float = torch.Tensor.double
    if isinstance(model, transformers.DeepseekV3ForCausalLM):
        torch.float32 = torch.float = torch.float64
        rope = model.model.rotary_emb
        init = ROPE_INIT_FUNCTIONS.get(rope.rope_type) or rope.compute_default_rope_parameters
        rope.inv_freq = init(model.config, torch.device("cpu"))[0]
    try:
        yield model.double()
    finally:
        torch.Tensor.float, torch.float32, torch.float = to_float, float32, float32
        model.float()


def expectation(model, lengths, seed, k):
    vocab = model.config.vocab_size
    g = torch.Generator().manual_seed(seed)
    sequences = [torch.randint(0, vocab, (n,), generator=g) for n in lengths]
    model.zero_grad()
    with in_double(model):
        gap, (logits, nll) = route_gap(model, k, lambda: forward(model, sequences))
        loss = nll.sum() / (sum(lengths) - len(lengths))
        loss.backward()
        assert logits.dtype == torch.float64
        grads = {n: p.grad.numpy().astype(np.float32) for n, p in model.named_parameters()}
    starts = np.cumsum([0] + lengths[:-1])
    targets = [torch.cat([s[1:], torch.tensor([-1])]) for s in sequences]
    e = {
        "ids": torch.cat(sequences).numpy().astype(np.int32),
        "positions": np.concatenate([np.arange(n) for n in lengths]).astype(np.int32),
        "seq_start": np.repeat(starts, lengths).astype(np.int32),
        "targets": torch.cat(targets).numpy().astype(np.int32),
        "logits": logits.detach().numpy().astype(np.float32),
        "nll": nll.detach().numpy().astype(np.float32),
        "loss": loss.detach().reshape(1).numpy().astype(np.float32),
    }
    e["loss_weight"] = (e["targets"] >= 0).astype(np.float32)
    return e, grads, gap


def write(out, model, expect, weights, grads):
    out.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    config.pop("transformers_version", None)
    config["dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file({n: np.ascontiguousarray(x) for n, x in weights.items()}, out / "model.safetensors")
    both = dict(expect, **{"grad." + n: np.ascontiguousarray(x) for n, x in grads.items()})
    save_file(both, out / "expect.safetensors")


def draw(model, lengths, k, min_gap=MIN_ROUTE_GAP, then=lambda model: None):
    """Weights and ids whose routes are clear; (expect, grads) of the first such seed."""
    for seed in range(1, 200):
        redraw(model, seed)
        then(model)
        expect, grads, gap = expectation(model, lengths, 1000 + seed, k)
        if gap >= min_gap:
            return expect, grads, seed, gap
    sys.exit("no seed below 200 gives clear routes: use fewer tokens or experts")


def make_llama4(name, out):
    over, rope, lengths = VARIANTS[name]
    config = transformers.Llama4TextConfig(**{**LLAMA4, **over}, **rope_arguments(rope))
    config._attn_implementation = "eager"
    model = transformers.Llama4ForCausalLM(config).float().eval()
    k = config.num_experts_per_tok
    split = name == "llama4-split"
    expect, grads, seed, gap = draw(model, lengths, k, then=lambda m: fp8(m) if split else None)
    weights = {n: p.detach().numpy() for n, p in model.named_parameters()}
    write(out / name, model, expect, weights, grads)
    if split:
        write_split(out / name, fp8(model))
    return seed, gap


def fp8(model):
    """Rounds the experts to e4m3 with a scale an output; tensors by the names that vLLM reads."""
    tensors = {}
    for name, p in model.named_parameters():
        folder, _, last = name.rpartition(".")
        if not folder.endswith(".experts"):
            tensors[name] = p.detach()
            continue
        for e in range(len(p)):
            parts = dict(zip(("gate", "up"), p.data[e].T.chunk(2))) if last == "gate_up_proj" \
                else {"down": p.data[e].T}
            for kind, w in parts.items():  # [out, in], a view of the parameter
                scale = w.abs().amax(1, keepdim=True) / 448
                codes = (w / scale).to(torch.float8_e4m3fn)
                w.copy_(codes.float() * scale)
                tensors[f"{folder}.{e}.{kind}_proj.weight"] = codes
                tensors[f"{folder}.{e}.{kind}_proj.weight_scale"] = scale
    return tensors


def write_split(out, tensors):
    config = json.loads((out / "config.json").read_text())
    weights = dict(num_bits=8, type="float", strategy="channel", symmetric=True, dynamic=False)
    config["quantization_config"] = dict(
        quant_method="compressed-tensors", format="float-quantized",
        config_groups=dict(group_0=dict(targets=["Linear"], weights=weights)),
        ignore=["re:.*self_attn.*", "re:.*shared_expert.*", "re:.*router.*", "lm_head"])
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_torch_file({n: x.contiguous().clone() for n, x in tensors.items()},
                    out / "model.safetensors")


def one_by_one(weights):
    """Experts as transformers saves them: one tensor each, gate and up apart."""
    out = {}
    for name, x in weights.items():
        folder, _, last = name.rpartition(".")
        if last == "gate_up_proj":
            for e, both in enumerate(x):
                gate, up = np.split(both, 2)
                out[f"{folder}.{e}.gate_proj.weight"] = gate
                out[f"{folder}.{e}.up_proj.weight"] = up
        elif last == "down_proj":
            for e, down in enumerate(x):
                out[f"{folder}.{e}.down_proj.weight"] = down
        else:
            out[name] = x
    return out


def make_deepseek(name, out):
    over, rope, lengths = DEEPSEEK_VARIANTS[name]
    config = transformers.DeepseekV3Config(**{**DEEPSEEK, **over}, **rope_arguments(rope))
    config._attn_implementation = config._experts_implementation = "eager"
    model = transformers.DeepseekV3ForCausalLM(config).float().eval()
    expect, grads, seed, gap = draw(model, lengths, config.num_experts_per_tok,
                                    DEEPSEEK_ROUTE_GAP)
    weights = {n: p.detach().numpy() for n, p in model.named_parameters()}
    for n, b in model.named_buffers():
        if n.endswith("e_score_correction_bias"):
            weights[n] = b.detach().numpy()
    write(out / name, model, expect, one_by_one(weights), grads)
    return seed, gap


def vlm_model(tower):
    if tower == "llama4":
        text = transformers.Llama4TextConfig(
            **{**LLAMA4, "num_hidden_layers": 2, "no_rope_layer_interval": 2},
            **rope_arguments(SCOUT_ROPE))
        config = transformers.Llama4Config(
            vision_config=LLAMA4_VISION, text_config=text.to_dict(), image_token_index=IMAGE,
            boi_token_index=3, eoi_token_index=4)
        kind = transformers.Llama4ForConditionalGeneration
    else:
        text = transformers.LlamaConfig(**LLAMA, **rope_arguments(ROPE))
        vision = dict(VISION, intermediate_size=40, model_type=f"{tower}_vision_model")
        vision.update({"image_size": 12, "num_hidden_layers": 3} if tower == "clip" else
                      {"image_size": 12, "vision_use_head": False})
        how = dict(clip=(-2, "default"), siglip=(-1, "full"))[tower]
        config = transformers.LlavaConfig(
            vision_config=vision, text_config=text.to_dict(), image_token_index=IMAGE,
            image_seq_length=9, vision_feature_layer=how[0],
            vision_feature_select_strategy=how[1])
        kind = transformers.LlavaForConditionalGeneration
    for c in (config, config.text_config, config.vision_config):
        c._attn_implementation = "eager"
    return kind(config).float().eval()


def vlm_double(model):
    """What transformers keeps in f32 whatever the model's type is, anew in double."""
    for module in model.modules():
        if hasattr(module, "freqs_ci"):
            module.freqs_ci = module._compute_freqs_ci(module.config)
        if type(module).__name__ == "LlamaRotaryEmbedding":
            n = module.inv_freq.numel()
            module.inv_freq = ROPE["rope_theta"] ** -(torch.arange(n, dtype=torch.float64) / n)


def vlm_sequences(layout, tokens, seed):
    g = torch.Generator().manual_seed(seed)
    sequences = []
    for parts in layout:
        ids, tiles = [], 0
        for part in parts:
            if isinstance(part, str):
                ids.append(torch.full((tokens * int(part),), IMAGE))
                tiles += int(part)
            else:
                ids.append(torch.randint(IMAGE + 1, 50, (part,), generator=g))
        sequences.append((torch.cat(ids), tiles))
    return sequences


def vlm_names(name, version4):
    """A parameter's name in a file: as 5.x saves it, or as 4.x did."""
    if name.startswith("model.language_model."):
        return name.replace("model.language_model.", "language_model.model.")
    if name == "lm_head.weight":
        return "language_model.lm_head.weight"
    name = name.removeprefix("model.")
    return name.replace("vision_tower.", "vision_tower.vision_model.") if version4 else name


def make_vlm(name, out):
    tower, layout = VLM_VARIANTS[name]
    model = vlm_model(tower)
    side = model.config.vision_config.image_size
    tokens = 4 if tower == "llama4" else 9
    rename = (lambda n: n) if tower == "llama4" else (lambda n: vlm_names(n, tower == "clip"))
    for seed in range(1, 200):
        redraw(model, seed)
        g = torch.Generator().manual_seed(2000 + seed)
        sequences = vlm_sequences(layout, tokens, 1000 + seed)
        pixels = torch.randn((sum(n for _, n in sequences), 3, side, side), generator=g)
        model.zero_grad()
        float32 = torch.float32
        with in_double(model):
            torch.float32 = torch.float = torch.float64
            try:
                vlm_double(model)
                gap, result = route_gap(model, 1, lambda: vlm_forward(model, sequences, pixels))
                logits, nll, greedy, lead = result
                counted = sum(len(ids) - 1 for ids, _ in sequences)
                loss = nll.sum() / counted
                loss.backward()
            finally:
                torch.float32 = torch.float = float32
        if gap >= MIN_ROUTE_GAP and lead >= 1e-2:
            break
    assert logits.dtype == torch.float64
    grads = {rename(n): p.grad.numpy().astype(np.float32) for n, p in model.named_parameters()
             if p.grad is not None}
    weights = {rename(n): p.detach().numpy() for n, p in model.named_parameters()}
    lengths = [len(ids) for ids, _ in sequences]
    ids = torch.cat([ids for ids, _ in sequences]).numpy().astype(np.int32)
    is_image = ids == IMAGE
    targets = [torch.cat([s[1:], torch.tensor([-1])]) for s, _ in sequences]
    e = {
        "ids": ids,
        "positions": np.concatenate([np.arange(n) for n in lengths]).astype(np.int32),
        "seq_start": np.repeat(np.cumsum([0] + lengths[:-1]), lengths).astype(np.int32),
        "targets": torch.cat(targets).numpy().astype(np.int32),
        "logits": logits.detach().numpy().astype(np.float32),
        "nll": nll.detach().numpy().astype(np.float32),
        "loss": loss.detach().reshape(1).numpy().astype(np.float32),
        "pixels": pixels.numpy(),
        "image_rows": np.where(is_image, np.cumsum(is_image) - 1, -1).astype(np.int32),
        "greedy": np.array(greedy, dtype=np.int32),
    }
    e["loss_weight"] = (e["targets"] >= 0).astype(np.float32)
    write(out / name, model, e, weights, grads)
    return seed, gap


def vlm_forward(model, sequences, pixels):
    """As forward(), and the greedy continuation of the last sequence with its smallest lead."""
    logits, nll, at, lead = [], [], 0, float("inf")
    for ids, tiles in sequences:
        own = dict(pixel_values=pixels[at:at + tiles].double()) if tiles else {}
        out = model(input_ids=ids[None], use_cache=False, **own).logits[0]
        logp = torch.log_softmax(out[:-1], dim=-1)
        nll.append(-logp[torch.arange(len(ids) - 1), ids[1:]])
        nll.append(torch.zeros(1, dtype=out.dtype))
        logits.append(out)
        at += tiles
    greedy = []
    with torch.no_grad():
        last = out
        for _ in range(6):
            lead = min(lead, gap_after(last[-1:], 1))
            greedy.append(last[-1].argmax().item())
            ids = torch.cat([ids, torch.tensor(greedy[-1:])])
            if greedy[-1] == IMAGE:
                lead = 0
                break
            last = model(input_ids=ids[None], use_cache=False, **own).logits[0]
    return torch.cat(logits), torch.cat(nll), greedy, lead


def rope_arguments(rope):
    """transformers 5.x takes one dict; 4.x a number and a dict."""
    if int(transformers.__version__.split(".")[0]) >= 5:
        return dict(rope_parameters=dict(rope))
    scaling = {k: v for k, v in rope.items() if k != "rope_theta"}
    return dict(rope_theta=rope["rope_theta"],
                rope_scaling=None if rope["rope_type"] == "default" else scaling)


def make_gpt2(name, out):
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=32, n_embd=24, n_layer=2, n_head=4, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2)
    config._attn_implementation = "eager"
    model = transformers.GPT2LMHeadModel(config).float().eval()
    expect, grads, seed, gap = draw(model, [1, 5, 32], 1)
    weights = {n: p.detach().numpy() for n, p in model.named_parameters()}
    write(out / name, model, expect, gpt2_from_hf.convert(weights), gpt2_from_hf.convert(grads))
    return seed, gap


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ap.add_argument("--out", type=pathlib.Path, default=ROOT / "tests" / "parity" / "fixtures")
    makers = {**dict.fromkeys(VARIANTS, make_llama4),
              **dict.fromkeys(DEEPSEEK_VARIANTS, make_deepseek), "gpt2": make_gpt2,
              **dict.fromkeys(VLM_VARIANTS, make_vlm)}
    ap.add_argument("names", nargs="*", help="default: all of " + ", ".join(makers))
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in args.names or makers:
        seed, gap = makers[name](name, args.out)
        size = sum(f.stat().st_size for f in (args.out / name).iterdir())
        print(f"{name}: seed {seed}, smallest route gap {gap:.3g}, {size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
