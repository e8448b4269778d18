#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make_fixtures.py: what `tokenizers` and `tiktoken` make of some texts.

Run once by hand (needs tokenizers 0.23 and tiktoken 0.14); writes fixtures/ beside this file.
The vocabulary is trained here, on the sentences below. A line of NAME.txt is

    TEXT TIMES COUNT HASH ID ID ...

TEXT in hexadecimal (- is none) and repeated TIMES times, COUNT ids with the FNV-1a hash of their
values as little-endian i32, and the first eight of them.
"""

import base64
import json
import os
import struct

import tiktoken
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors, trainers

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, and then the other dogs jump over the fox.",
    "It's what they're saying: we'll see, I've no idea, you'd better ask, I'm not sure, don't.",
    "for (int i = 0; i < n; i++) { sum += values[i]; } // return the sum\n\treturn sum;\n",
    "def encode(self, text):\n    return [self.ids[c] for c in text]\n\n\nclass Thing:\n    pass\n",
    "中文的文本和英文的文本在一起，中国人民的文字。今天天气很好，我们去公园。",
    "日本語のテキスト、カタカナとひらがな。한국어 문장도 있습니다.",
    "Der Fluß fließt über die Brücke; naïve café, señor, Ångström, œuvre, façade.",
    "3.14159 and 2718 and 1000000 and 42, 007, 1984, 2024-11-24 08:05:00.",
    "   leading spaces    and runs     of      them\r\n\r\nline\r\nline\n\n\n",
    "🙂🙃😀 👩‍🔬 👍🏽 ❤️ ✨✨✨ e\u0301a\u0300o\u0308 \u05d0\u05d1\u05d2 "
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 हिन्दी ไทย",
    "HTTPServer getElementById XMLHttpRequest snake_case_name CamelCase UPPERCASE lowercase",
]

LLAMA4 = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KIMI = r"[\p{Han}]+|" + LLAMA4.replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]").replace("/", "")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[一-龥\u3040-\u309f\u30a0-\u30ff]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]

TEXTS = SENTENCES + [
    "",
    " ",
    "a",
    "\n",
    "\r\n",
    "\t",
    "  ",
    " a",
    "a ",
    "  a  b   c    ",
    "\n\n \n",
    " \n a",
    "\r\r\n\n",
    "I'LL we'Ve YOU'RE it'S 's 'S 'll 'ſ ’s don''t",
    "1 12 123 1234 12345 1234567 ½²Ⅷ٣٤٥ x1y22z333",
    "//comment /* x */ a/b/c\n// next\n/\n",
    "!?!?...---===\n\n",
    "e\u0301e\u0301\u0302 \u0301 \u0301a",
    "q\u0307\u0323 d\u0323\u0307 \u1e0b\u0323 \u212b \u00c5 A\u030a \u1100\u1161\u11a8 \uac00\u11a8 "
    "\u0344 \u2126",
    "\u0958 \u0374 \u2000 \ufb1d \U0001d15e \U0002f800 \u09c7\u09be a\u0315\u0300\u05ae\u0300",
    "中英mixed文字ABC和123数字",
    "々〇一二三 漢字かなカナ㍿",
    "한국어와 English",
    "\u180e\u200b\u2028\u2029\u0085\u00a0\u3000\ufeff x\u180e y\u180e\u180e",
    "\0\x01\x02\x1c\x1f\x7f\x80\x9f",
    "\U000321bc \U0001f7b8 \u1c89 \u1c8a \u0897 \ua7cb \U00011f00 \U0002ebf0 "
    "\U00016d40 a\U0001fae9",
    "<|begin|>x<|end|> <tag> <|begin|><|begin|>",
    "a <pad>  b",
    "  <rstrip>   c \n<both> \t d<both>",
    "<|beg",
    "<|begin|",
    "<<|end|>>",
    "x<|end|>y <word> </word>",
    "Ünïcödé wörds ñ Ñ ß ẞ ﬁ ǅ ª º",
    "👩‍👩‍👧‍👦👨🏿‍🚀🏳️‍🌈 🇩🇪🇫🇷",
    "\U0010ffff\ue000\U000f0000",
    "a\u200db \u00ad-\u2010",
]
LONG = [
    (" ", 5000),
    ("a", 5000),
    ("A", 3000),
    ("中", 3000),
    ("\n", 3000),
    ("a ", 2000),
    ("1", 3001),
    ("e\u0301", 2000),
    ("!", 3000),
    ("aA", 2000),
    ("\u0301", 2000),
    (" \t", 2000),
    ("🙂", 1000),
    ("the ", 2000),
    ("字A", 1000),
]


def fnv(ids):
    h = 0xCBF29CE484222325
    for byte in struct.pack(f"<{len(ids)}i", *ids):
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def write_cases(name, encode):
    with open(os.path.join(HERE, name + ".txt"), "w") as out:
        for text, times in [(t, 1) for t in TEXTS] + LONG:
            ids = encode(text * times)
            first = " ".join(map(str, ids[:8]))
            out.write(f"{text.encode().hex() or '-'} {times} {len(ids)} {fnv(ids):016x} {first}\n")


def train():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA4), "isolated"),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    t.train_from_iterator(
        SENTENCES * 3,
        trainers.BpeTrainer(
            vocab_size=560,
            min_frequency=2,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return json.loads(t.to_str())["model"]


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def make_hf(name, model, pre, normalizer=None, ignore_merges=False):
    model = dict(model, ignore_merges=ignore_merges)
    t = Tokenizer(
        models.BPE.from_str(json.dumps(model))
        if hasattr(models.BPE, "from_str")
        else models.BPE(
            model["vocab"], [tuple(m) for m in model["merges"]], ignore_merges=ignore_merges
        )
    )
    t.pre_tokenizer, t.decoder = pre, decoders.ByteLevel()
    if normalizer:
        t.normalizer = normalizer
    t.add_special_tokens(
        ["<|begin|>", "<|end|>", AddedToken("<pad>", special=True, normalized=False)]
    )
    t.add_tokens(
        [
            AddedToken("<rstrip>", rstrip=True, normalized=False),
            "<word>",
            AddedToken("<both>", lstrip=True, rstrip=True, normalized=True),
        ]
    )
    t.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|begin|> $A", special_tokens=[("<|begin|>", t.token_to_id("<|begin|>"))]
            ),
        ]
    )
    t.save(os.path.join(HERE, name + ".json"), pretty=False)
    write_cases(name, lambda text: t.encode(text, add_special_tokens=False).ids)
    t.encode_special_tokens = True
    write_cases(name + "-plain", lambda text: t.encode(text, add_special_tokens=False).ids)


def byte_of(c):
    """The byte that a character of the byte alphabet stands for."""
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    rest = [b for b in range(256) if b not in plain]
    return ord(c) if ord(c) in plain else rest[ord(c) - 256]


def make_tiktoken(model):
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    ranks = {bytes(map(byte_of, t)): i for i, t in enumerate(sorted(tokens, key=len))}
    with open(os.path.join(HERE, "ranks.txt"), "w") as out:
        for token, rank in ranks.items():
            out.write(f"{base64.b64encode(token).decode()} {rank}\n")
    n = len(ranks)
    names = {n: "<|begin|>", n + 1: "<|end|>", n + 3: "<pad>"}
    specials = {names.get(i, f"<|reserved_token_{i}|>"): i for i in range(n, n + 256)}
    with open(os.path.join(HERE, "tokenizer_config.json"), "w") as out:
        json.dump(
            {
                "tokenizer_class": "TikTokenTokenizer",
                "bos_token": "<|begin|>",
                "eos_token": "<|end|>",
                "pad_token": {"content": "<pad>"},
                "added_tokens_decoder": {
                    str(i): {"content": t, "special": True} for i, t in names.items()
                },
            },
            out,
        )
    for name, pattern in ("kimi", KIMI), ("llama4", LLAMA4), ("gpt2", GPT2):
        e = tiktoken.Encoding(
            name=name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials
        )
        write_cases("tiktoken-" + name, lambda text: e.encode(text, allowed_special="all"))
        write_cases("tiktoken-" + name + "-plain", e.encode_ordinary)


def main():
    os.makedirs(HERE, exist_ok=True)
    model = train()
    make_hf(
        "deepseek",
        model,
        pre_tokenizers.Sequence(
            [split(p) for p in DEEPSEEK] + [pre_tokenizers.ByteLevel(False, use_regex=False)]
        ),
    )
    make_hf(
        "llama4",
        model,
        pre_tokenizers.Sequence([split(LLAMA4), pre_tokenizers.ByteLevel(False, use_regex=False)]),
        ignore_merges=True,
    )
    make_hf("nfc", model, pre_tokenizers.ByteLevel(False), normalizers.NFC())
    make_tiktoken(model)


if __name__ == "__main__":
    main()
