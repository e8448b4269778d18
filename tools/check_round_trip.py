#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Hand a model to mrun and back: what transformers then computes is what mrun reports next.

For each variant of tools/make_parity_fixtures.py (with 256 ids, one for each byte)
  1. transformers saves a random model; `mrun convert` of the untouched folder gives back every
     tensor's bytes and every key of config.json;
  2. mrun trains it for ten steps (fp32, backend cpu) and converts the run;
  3. transformers loads the new folder, with no key missing or unexpected, and its loss on the
     next batch, computed in double, is the one that mrun logs for step 11, to 1e-5.
The same from step 2 on for models that mrun made from a profile alone.

Run by hand, with MRUN_EXE and MRUN_PLUGIN_PATH as tests have them. Needs torch and transformers:
with 5.x all of it; with 4.x folders that 5.x made are opened (--from DIR of an earlier --keep DIR).
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors import safe_open

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import make_parity_fixtures as fixtures  # noqa: E402

SEQ, ROWS, STEPS = 32, 2, 10
PROFILE = """[run]
dir = {run}
[job]
run = train
[backend]
plugin = cpu
[tokenizer]
plugin = bytes
[data]
plugin = text
[data.text]
path = {text}
shuffle = false
valid_fraction = 0
[optimizer]
lr = 1e-3
schedule = constant
[sink]
plugin = jsonl
[train]
steps = {steps}
seq = {seq}
micro_batch = {rows}
global_batch = {rows}
{model}
"""
SIZES = """[model]
plugin = {family}
layers = 3
hidden = 24
heads = 2
ffn_hidden = 36
vocab = 256
max_positions = 128
init_std = 0.1
[model.{family}]
"""
SCRATCH = {
    "llama4-scratch": SIZES.format(family="llama4") + "experts = 4\nexperts_per_token = 2\n"
    "moe_step = 2\nnope_interval = 2\nattention_chunk = 8\nrope_factor = 4\n",
    "kimi-scratch": SIZES.format(family="kimi_k2") + "kv_lora_rank = 10\nq_lora_rank = 14\n"
    "nope_dim = 6\nrope_dim = 8\nvalue_dim = 5\nexperts = 8\nexperts_per_token = 2\ngroups = 2\n"
    "group_topk = 1\nshared_experts = 1\nfirst_dense = 1\nrope_factor = 4\n"
    "rope_original_max_positions = 32\nmscale_all_dim = 1\n",
}


def mrun(*args):
    done = subprocess.run([os.environ["MRUN_EXE"], *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"mrun {' '.join(map(str, args))}:\n{done.stderr}")


def tensors(folder):
    out = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as f:
            for name in f.keys():
                assert name not in out, name
                out[name] = f.get_tensor(name)
    return out


def check_untouched(folder, out):
    mrun("convert", folder, "--to", "hf", "--out", out, "--max-shard-size", "40KB")
    a, b = tensors(folder), tensors(out)
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name
    old, new = (json.loads((d / "config.json").read_text()) for d in (folder, out))
    assert all(new[k] == v for k, v in old.items())


def random_model(name, folder):
    llama = name in fixtures.VARIANTS
    over, rope, _ = (fixtures.VARIANTS if llama else fixtures.DEEPSEEK_VARIANTS)[name]
    base = dict(fixtures.LLAMA4 if llama else fixtures.DEEPSEEK, vocab_size=256)
    kind = (transformers.Llama4TextConfig, transformers.Llama4ForCausalLM) if llama else \
        (transformers.DeepseekV3Config, transformers.DeepseekV3ForCausalLM)
    model = kind[1](kind[0](**{**base, **over}, **fixtures.rope_arguments(rope))).float()
    fixtures.redraw(model, 1)
    model.save_pretrained(folder)
    return f"[model]\nhf = {folder}\nplugin = {'llama4' if llama else 'kimi_k2'}\n"


def loss_of(folder, text):
    """Of the batch of step STEPS + 1; the folder must fit the class exactly."""
    cls = transformers.Llama4ForCausalLM \
        if "llama4" in json.loads((folder / "config.json").read_text())["model_type"] \
        else transformers.DeepseekV3ForCausalLM
    model, info = cls.from_pretrained(folder, output_loading_info=True, dtype=torch.float32,
                                      attn_implementation="eager")
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], (kind, info[kind])
    model.eval()
    if hasattr(model.config, "_experts_implementation"):
        model.config._experts_implementation = "eager"
    first = STEPS * ROWS * SEQ
    rows = [torch.tensor(list(text[i:i + SEQ + 1])) for i in range(first, first + ROWS * SEQ, SEQ)]
    nll = []
    with fixtures.in_double(model), torch.no_grad():
        for ids in rows:
            logits = model(input_ids=ids[None, :-1], use_cache=False).logits[0]
            nll.append(-torch.log_softmax(logits, -1)[torch.arange(SEQ), ids[1:]])
    return torch.cat(nll).mean().item()


def check_trained(name, model, work, text):
    run, out, profile = work / name / "run", work / name / "out", work / name / "p.ini"
    profile.parent.mkdir(exist_ok=True)
    profile.write_text(PROFILE.format(run=run, text=work / "text.txt", steps=STEPS, seq=SEQ,
                                      rows=ROWS, model=model))
    mrun(profile)
    mrun("convert", run, "--to", "hf", "--out", out, "--max-shard-size", "60KB")
    mrun(profile, "--set", f"train.steps={STEPS + 1}")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    said = [x["loss"] for x in lines if x.get("step") == STEPS + 1 and "loss" in x][-1]
    (out / "said.json").write_text(json.dumps(said))
    compare(name, out, text)


def compare(name, out, text):
    said, own = json.loads((out / "said.json").read_text()), loss_of(out, text)
    off = abs(said - own) / own
    print(f"{name}: mrun {said:.9g}, transformers {transformers.__version__} {own:.9g}, "
          f"off by {off:.1e}", flush=True)
    assert off < 1e-5, name


def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--keep", type=pathlib.Path, help="folder to work in, kept")
    ap.add_argument("--from", dest="old", type=pathlib.Path, help="only open what is there")
    every = [*fixtures.VARIANTS, *fixtures.DEEPSEEK_VARIANTS, *SCRATCH]
    ap.add_argument("names", nargs="*", default=every)
    args = ap.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    text = bytes((i * i * 7 + i // 3) % 96 + 32 for i in range((STEPS + 2) * ROWS * SEQ))
    with tempfile.TemporaryDirectory() as tmp:
        work = (args.old or args.keep or pathlib.Path(tmp)).resolve()
        work.mkdir(exist_ok=True)
        (work / "text.txt").write_bytes(text)
        for name in args.names:
            if args.old:
                if name == "llama4-tied" and transformers.__version__[0] == "4":
                    print(f"{name}: 4.x has no attention biases")
                    continue
                compare(name, work / name / "out", text)
                continue
            model = SCRATCH.get(name)
            if not model:
                model = random_model(name, work / name / "hf")
                check_untouched(work / name / "hf", work / name / "same")
            check_trained(name, model, work, text)


if __name__ == "__main__":
    main()
