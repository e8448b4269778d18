#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make the fixtures of multi-token prediction in tests/parity/fixtures, which transformers lacks.

Run by hand; the fixtures are committed. Needs torch and safetensors alone: the whole model is
written here, from the equations of the DeepSeek-V2 (latent attention) and DeepSeek-V3 papers
(routing; multi-token prediction, section 2.2), and shares no line with any library's. What the
papers leave open is as in Megatron-LM: the first module reads the trunk after its final norm, and
the mean of a module is over the tokens that still have a target.

The files are those of make_parity_fixtures.py, whose head describes them; beside them
  mtp_loss f32 [1]   the mean over modules of each one's share of the objective,
                     0.1 / D times its mean nll
and grad.NAME is the gradient of loss + the sum of the shares, of every parameter.
All is computed in double from fp32 weights.
"""
import argparse
import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
COEFFICIENT = 0.1
GAP = 2e-3  # between the last expert that is taken and the next

SIZES = dict(vocab_size=50, hidden_size=24, intermediate_size=36, moe_intermediate_size=10,
             num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3, q_lora_rank=14,
             kv_lora_rank=10, qk_nope_head_dim=6, qk_rope_head_dim=8, v_head_dim=5,
             n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=2,
             first_k_dense_replace=1, n_group=1, topk_group=1, norm_topk_prob=True,
             routed_scaling_factor=2.5, rms_norm_eps=1e-6, attention_bias=False,
             rope_theta=10000.0, rope_scaling=None, max_position_embeddings=1024,
             tie_word_embeddings=False, num_nextn_predict_layers=2, bos_token_id=1,
             eos_token_id=2)
# name: (sizes over SIZES, lengths of the sequences, are embedding and head repeated in the file?)
VARIANTS = {
    "mtp": ({}, [1, 2, 3, 9, 23], True),
    "mtp-tied": (dict(num_nextn_predict_layers=1, tie_word_embeddings=True,
                      first_k_dense_replace=2), [2, 11, 1, 17], False),
}


def rms(x, weight, eps=1e-6):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def turned(x, positions, theta):
    """Pairs (2i, 2i + 1) as complex numbers, times e^(i position theta^(-2i/d))."""
    d = x.shape[-1]
    angle = positions[:, None] * theta ** -(torch.arange(0, d, 2, dtype=x.dtype) / d)
    z = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    z = z * torch.polar(torch.ones_like(angle), angle).view(len(x), *[1] * (x.dim() - 2), d // 2)
    return torch.view_as_real(z).flatten(-2)


class Model:
    def __init__(self, c, w):
        self.c, self.w, self.gap = c, w, float("inf")

    def attention(self, at, x):
        c, w = self.c, self.w
        n, heads, nope, v = len(x), c["num_attention_heads"], c["qk_nope_head_dim"], c["v_head_dim"]
        where = torch.arange(n, dtype=x.dtype)
        q = rms(x @ w[at + "q_a_proj.weight"].T, w[at + "q_a_layernorm.weight"])
        q = (q @ w[at + "q_b_proj.weight"].T).view(n, heads, -1)
        down = x @ w[at + "kv_a_proj_with_mqa.weight"].T
        latent = rms(down[:, :c["kv_lora_rank"]], w[at + "kv_a_layernorm.weight"])
        up = (latent @ w[at + "kv_b_proj.weight"].T).view(n, heads, nope + v)
        shared = turned(down[:, c["kv_lora_rank"]:], where, c["rope_theta"])
        scores = torch.einsum("thd,shd->hts", q[..., :nope], up[..., :nope])
        scores = scores + torch.einsum("thd,sd->hts",
                                       turned(q[..., nope:], where, c["rope_theta"]), shared)
        scores = scores / (nope + c["qk_rope_head_dim"]) ** 0.5
        later = torch.ones(n, n, dtype=torch.bool).triu(1)
        p = scores.masked_fill(later, float("-inf")).softmax(-1)
        o = torch.einsum("hts,shd->thd", p, up[..., nope:]).flatten(1)
        return o @ w[at + "o_proj.weight"].T

    def swiglu(self, x, gate, up, down):
        return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T

    def plain(self, at, x):
        return self.swiglu(x, *(self.w[at + n + "_proj.weight"] for n in ("gate", "up", "down")))

    def experts(self, at, x):
        c, w, k = self.c, self.w, self.c["num_experts_per_tok"]
        score = torch.sigmoid(x @ w[at + "gate.weight"].T)
        rank = (score + w[at + "gate.e_score_correction_bias"]).sort(-1, descending=True)
        self.gap = min(self.gap, (rank.values[:, k - 1] - rank.values[:, k]).min().item())
        chosen = torch.zeros_like(score).scatter(1, rank.indices[:, :k], 1)
        p = score * chosen
        p = c["routed_scaling_factor"] * p / p.sum(-1, keepdim=True)
        y = self.plain(at + "shared_experts.", x)
        for e in range(c["n_routed_experts"]):
            gate, up = w[at + "experts.gate_up_proj"][e].chunk(2)
            y = y + p[:, e:e + 1] * self.swiglu(x, gate, up, w[at + "experts.down_proj"][e])
        return y

    def layer(self, i, x):
        at, w = f"model.layers.{i}.", self.w
        x = x + self.attention(at + "self_attn.", rms(x, w[at + "input_layernorm.weight"]))
        y = rms(x, w[at + "post_attention_layernorm.weight"])
        dense = at + "mlp.gate_proj.weight" in w
        return x + (self.plain(at + "mlp.", y) if dense else self.experts(at + "mlp.", y))

    def sequence(self, ids):
        """Logits of the trunk, and of each module for the tokens that have one k + 1 later."""
        w, L = self.w, self.c["num_hidden_layers"]
        table = w["model.embed_tokens.weight"]
        head = w.get("lm_head.weight", table)
        x = table[ids]
        for i in range(L):
            x = self.layer(i, x)
        h = rms(x, w["model.norm.weight"])
        logits, more = h @ head.T, []
        for k in range(1, self.c["num_nextn_predict_layers"] + 1):
            at = f"model.layers.{L + k - 1}."
            if len(ids) > k:  # only tokens that have a k-th next one: the others see nothing
                e = rms(table[ids[k:]], w[at + "enorm.weight"])
                z = torch.cat([e, rms(h[:len(ids) - k], w[at + "hnorm.weight"])], -1)
                z = self.layer(L + k - 1, z @ w[at + "eh_proj.weight"].T)
                h = rms(z, w[at + "shared_head.norm.weight"])
            else:
                h = h[:0]
            more.append(h @ head.T)
        return logits, more


def shapes(c):
    D, F, E = c["hidden_size"], c["moe_intermediate_size"], c["n_routed_experts"]
    H, nope, rope, v = (c[n] for n in ("num_attention_heads", "qk_nope_head_dim",
                                       "qk_rope_head_dim", "v_head_dim"))
    q, kv, L = c["q_lora_rank"], c["kv_lora_rank"], c["num_hidden_layers"]
    s = {"model.embed_tokens.weight": (c["vocab_size"], D), "model.norm.weight": (D,)}
    if not c["tie_word_embeddings"]:
        s["lm_head.weight"] = (c["vocab_size"], D)

    def mlp(at, width):
        s.update({at + "gate_proj.weight": (width, D), at + "up_proj.weight": (width, D),
                  at + "down_proj.weight": (D, width)})

    for i in range(L + c["num_nextn_predict_layers"]):
        at = f"model.layers.{i}."
        s.update({at + "input_layernorm.weight": (D,), at + "post_attention_layernorm.weight": (D,),
                  at + "self_attn.q_a_proj.weight": (q, D),
                  at + "self_attn.q_a_layernorm.weight": (q,),
                  at + "self_attn.q_b_proj.weight": (H * (nope + rope), q),
                  at + "self_attn.kv_a_proj_with_mqa.weight": (kv + rope, D),
                  at + "self_attn.kv_a_layernorm.weight": (kv,),
                  at + "self_attn.kv_b_proj.weight": (H * (nope + v), kv),
                  at + "self_attn.o_proj.weight": (D, H * v)})
        if i < c["first_k_dense_replace"] or c["first_k_dense_replace"] >= L:
            mlp(at + "mlp.", c["intermediate_size"])
        else:
            mlp(at + "mlp.shared_experts.", c["n_shared_experts"] * F)
            s.update({at + "mlp.gate.weight": (E, D), at + "mlp.gate.e_score_correction_bias": (E,),
                      at + "mlp.experts.gate_up_proj": (E, 2 * F, D),
                      at + "mlp.experts.down_proj": (E, D, F)})
        if i >= L:
            s.update({at + "enorm.weight": (D,), at + "hnorm.weight": (D,),
                      at + "eh_proj.weight": (D, 2 * D), at + "shared_head.norm.weight": (D,)})
    return s


def draw(c, g):
    w = {}
    for name, shape in shapes(c).items():
        deviation = 0.3 if name.endswith("bias") else 0.2 if len(shape) > 1 else 0.1
        x = deviation * torch.randn(shape, generator=g)
        w[name] = (x + (len(shape) == 1 and not name.endswith("bias"))).double()
        w[name].requires_grad_(not name.endswith("correction_bias"))
    return w


def nll(logits, targets):
    return -torch.log_softmax(logits, -1)[torch.arange(len(targets)), targets]


def compute(c, w, sequences):
    m, D = Model(c, w), c["num_nextn_predict_layers"]
    logits, main, further = [], [], [[] for _ in range(D)]
    for ids in sequences:
        own, more = m.sequence(ids)
        logits.append(own)
        main += [nll(own[:-1], ids[1:]), torch.zeros(1, dtype=own.dtype)]
        for k, x in enumerate(more, 1):
            further[k - 1].append(nll(x[:max(len(ids) - k - 1, 0)], ids[k + 1:]))
    main = torch.cat(main)
    loss = main.sum() / sum(len(s) - 1 for s in sequences)
    shares = [COEFFICIENT / D * torch.cat(x).mean() for x in further]
    (loss + sum(shares)).backward()
    return torch.cat(logits), main, loss, sum(shares) / D, m.gap


def one_by_one(w, c, repeats):
    """As DeepSeek's folders have them: a tensor an expert, and the modules' own copies."""
    out = {}
    for name, x in w.items():
        folder, _, last = name.rpartition(".")
        for e in range(len(x) if "experts." in name and last.endswith("_proj") else 0):
            parts = dict(zip(("gate", "up"), x[e].chunk(2))) if last == "gate_up_proj" else \
                {"down": x[e]}
            out.update({f"{folder}.{e}.{n}_proj.weight": p for n, p in parts.items()})
        if "experts." not in name or not last.endswith("_proj"):
            out[name] = x
    for k in range(c["num_nextn_predict_layers"] if repeats else 0):
        at = f"model.layers.{c['num_hidden_layers'] + k}."
        out[at + "embed_tokens.weight"] = w["model.embed_tokens.weight"]
        out[at + "shared_head.head.weight"] = w["lm_head.weight"]
    return out


def numbers(x):
    return np.ascontiguousarray(x.detach().numpy().astype(np.float32))


def make(name, out):
    over, lengths, repeats = VARIANTS[name]
    c = {**SIZES, **over}
    for seed in range(1, 200):
        g = torch.Generator().manual_seed(seed)
        w = draw(c, g)
        sequences = [torch.randint(0, c["vocab_size"], (n,), generator=g) for n in lengths]
        logits, main, loss, shares, gap = compute(c, w, sequences)
        if gap >= GAP:
            break
    else:
        sys.exit("no seed below 200 gives clear routes")
    targets = np.concatenate([np.append(s[1:].numpy(), -1) for s in sequences])
    expect = {
        "ids": torch.cat(sequences).numpy().astype(np.int32),
        "positions": np.concatenate([np.arange(n) for n in lengths]).astype(np.int32),
        "seq_start": np.repeat(np.cumsum([0] + lengths[:-1]), lengths).astype(np.int32),
        "targets": targets.astype(np.int32),
        "loss_weight": (targets >= 0).astype(np.float32),
        "logits": numbers(logits), "nll": numbers(main), "loss": numbers(loss.reshape(1)),
        "mtp_loss": numbers(shares.reshape(1)),
    }
    expect.update({"grad." + n: numbers(x.grad) for n, x in w.items() if x.requires_grad})
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(c, architectures=["DeepseekV3ForCausalLM"], model_type="deepseek_v3",
                  hidden_act="silu", scoring_func="sigmoid", topk_method="noaux_tc",
                  dtype="float32")
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file({n: numbers(x) for n, x in one_by_one(w, c, repeats).items()},
              folder / "model.safetensors")
    save_file(expect, folder / "expect.safetensors")
    print(f"{name}: seed {seed}, smallest route gap {gap:.3g}")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ap.add_argument("--out", type=pathlib.Path, default=ROOT / "tests" / "parity" / "fixtures")
    args = ap.parse_args()
    torch.set_num_threads(1)
    for name in VARIANTS:
        make(name, args.out)


if __name__ == "__main__":
    main()
