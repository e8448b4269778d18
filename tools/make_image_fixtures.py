#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make_image_fixtures.py OUT: pictures as PIL reads them, and as transformers prepares them.

OUT (tests/unit/image/fixtures) gets
  *.png, *.jpg           small pictures, one a kind of file
  decoded.safetensors    u8 [height, width, 3] by file name: PIL, upright, transparent on white
  prepared.safetensors   f32 pixel values by case; "u8." the resized bytes of torchvision
  cases.json             what each case was made of (processor and its settings, sizes, grid)
  chain/                 a folder with a tokenizer, and cases of text and pictures to ids

Pictures of the cases are not stored: value(x, y, c) below says every pixel, here and in the tests.
Needs transformers, torch, torchvision, pillow, safetensors.
"""
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torchvision.transforms.v2 import functional as tv
from transformers import (CLIPImageProcessor, Llama4ImageProcessor, Llama4Processor,
                          LlavaImageProcessor, LlavaProcessor, PreTrainedTokenizerFast,
                          SiglipImageProcessor)

torch.set_num_threads(1)


def picture(width, height):
    y, x, c = np.mgrid[0:height, 0:width, 0:3].astype(np.int64)
    return ((x * x * 3 + y * 7 + c * 85 + (x * y >> 3)) & 255).astype(np.uint8)


def interlaced(pixels):
    """An RGB PNG in the seven passes of Adam7, which PIL reads and does not write."""
    height, width, _ = pixels.shape
    rows = b""
    for x, y, dx, dy in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4),
                         (1, 0, 2, 2), (0, 1, 1, 2)]:
        part = pixels[y::dy, x::dx]
        if part.size:
            rows += b"".join(b"\0" + row.tobytes() for row in part)
    out = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    for name, data in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        out += struct.pack(">I", len(data)) + name + data
        out += struct.pack(">I", zlib.crc32(name + data))
    return out


def files(out):
    rgb = Image.fromarray(picture(23, 17))
    grey = rgb.convert("L")
    cover = picture(17, 23)[:, :, 0].T * 3
    alpha = Image.fromarray(np.dstack([picture(23, 17), cover]).astype(np.uint8))
    palette = rgb.quantize(13)
    see_through = palette.copy()
    deep = np.asarray(picture(23, 17)[:, :, 0]).astype(np.uint16) * 257 + 91
    exif = Image.Exif()
    exif[0x0112] = 6
    jobs = {
        "rgb.png": (rgb, {}), "grey.png": (grey, {}), "alpha.png": (alpha, {}),
        "palette.png": (palette, {}), "bits1.png": (grey.convert("1"), {}),
        "grey-alpha.png": (alpha.convert("LA"), {}), "grey16.png": (Image.fromarray(deep), {}),
        "palette-transparent.png": (see_through, {"transparency": 3}),
        "rgb-transparent.png": (rgb, {"transparency": rgb.getpixel((4, 4))}),
        "turned.png": (rgb, {"exif": exif.tobytes()}),
        "one.png": (Image.fromarray(picture(1, 1)), {}),
        "rgb.jpg": (rgb, {"quality": 90}), "full.jpg": (rgb, {"quality": 95, "subsampling": 0}),
        "grey.jpg": (grey, {}), "progressive.jpg": (rgb, {"progressive": True}),
        "cmyk.jpg": (rgb.convert("CMYK"), {"quality": 95}),
    }
    for k in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = k
        jobs[f"turned{k}.jpg"] = (rgb, {"exif": exif.tobytes()})
    decoded = {}
    for name, (image, how) in jobs.items():
        image.save(out / name, **how)
    (out / "interlaced.png").write_bytes(interlaced(picture(23, 17)))
    for name in [*jobs, "interlaced.png"]:
        seen = ImageOps.exif_transpose(Image.open(out / name))
        if "A" in seen.getbands() or seen.info.get("transparency") is not None:
            white = Image.new("RGBA", seen.size, (255, 255, 255, 255))
            seen = Image.alpha_composite(white, seen.convert("RGBA"))
        if seen.mode.startswith("I"):  # 16 bits of grey: the high byte
            seen = Image.fromarray((np.asarray(seen) >> 8).astype(np.uint8))
        decoded[name] = np.asarray(seen.convert("RGB"))
    save_file(decoded, out / "decoded.safetensors")


def prepared(out):
    tensors, cases = {}, []
    sizes = [(16, 16), (7, 5), (40, 16), (16, 40), (33, 33), (64, 64), (100, 30), (31, 127),
             (200, 200), (2, 90), (150, 149), (48, 32), (90, 45)]
    llama = [("llama4", Llama4ImageProcessor, {"size": {"height": 10, "width": 10}}),
             ("llama4-4", Llama4ImageProcessor,
              {"size": {"height": 10, "width": 10}, "max_patches": 4}),
             ("llama4-fill", Llama4ImageProcessor,
              {"size": {"height": 8, "width": 8}, "max_patches": 9, "resize_to_max_canvas": True})]
    clip = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
    whole = [("clip", CLIPImageProcessor, clip),
             ("clip-wide-crop", CLIPImageProcessor,
              {"size": {"shortest_edge": 10}, "crop_size": {"height": 24, "width": 24}}),
             ("llava", LlavaImageProcessor, clip),
             ("llava-pad", LlavaImageProcessor, dict(clip, do_pad=True)),
             ("siglip", SiglipImageProcessor, {"size": {"height": 24, "width": 24}}),
             ("siglip-bilinear", SiglipImageProcessor,
              {"size": {"height": 24, "width": 24}, "resample": 2, "do_rescale": False})]
    for name, kind, settings in llama + whole:
        processor = kind(**settings)
        config = json.loads(processor.to_json_string())
        config["image_processor_type"] = kind.__name__
        for width, height in sizes if kind is Llama4ImageProcessor else sizes[:9]:
            done = processor(Image.fromarray(picture(width, height)), return_tensors="pt")
            x = done["pixel_values"].float().numpy()
            key = f"{name}.{width}x{height}"
            tensors[key] = x
            grid = done["aspect_ratios"][0].tolist() if "aspect_ratios" in done else [1, 1]
            cases.append({"key": key, "config": config, "width": width, "height": height,
                          "grid": grid})
    # one at the true size: every 997th value
    big = Llama4ImageProcessor()(Image.fromarray(picture(1333, 700)), return_tensors="pt")
    tensors["big"] = big["pixel_values"].float().flatten()[::997].numpy().copy()
    tensors["big.grid"] = big["aspect_ratios"][0].numpy().astype(np.int32)
    steps = [((50, 31), (13, 40)), ((5, 9), (31, 17)), ((301, 7), (16, 16)),
             ((64, 48), (64, 11)), ((40, 41), (39, 41)), ((3, 1), (24, 24))]
    for how in ("bilinear", "bicubic"):
        mode = tv.InterpolationMode(how)
        for (w, h), (nw, nh) in steps:
            x = torch.from_numpy(picture(w, h)).permute(2, 0, 1).contiguous()
            y = tv.resize(x, [nh, nw], interpolation=mode, antialias=True)
            tensors[f"u8.{how}.{w}x{h}.{nw}x{nh}"] = y.permute(1, 2, 0).contiguous().numpy()
    save_file(tensors, out / "prepared.safetensors")
    (out / "cases.json").write_text(json.dumps(cases, indent=0))


def chain(out):
    """Texts and pictures to ids: a tokenizer of bytes with the words of both families."""
    words = ["<|begin|>", "<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>",
             "<|tile_x_separator|>", "<|tile_y_separator|>", "<image>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    t = Tokenizer(models.BPE(vocab={a: i for i, a in enumerate(alphabet)}, merges=[]))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tok = PreTrainedTokenizerFast(tokenizer_object=t, bos_token=words[0],
                                  additional_special_tokens=words[1:])
    tiles = Llama4ImageProcessor(size={"height": 28, "width": 28})
    llama = Llama4Processor(tiles, tok, patch_size=14)
    clip = LlavaImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    llava = LlavaProcessor(clip, tok, patch_size=14, vision_feature_select_strategy="default",
                           num_additional_image_tokens=1)
    three = ("a<|image|>b<|image|><|image|>c", [(20, 20), (30, 60), (200, 210)])
    cases = {"llama4": (llama, [("look: <|image|> well?", [(28, 28)]), ("<|image|>", [(90, 40)]),
                                three]),
             "llava": (llava, [("<image>\nwhat?", [(28, 28)]),
                              ("x<image>y<image>", [(90, 40), (5, 6)])])}
    for name, (processor, texts) in cases.items():
        folder = out / name
        folder.mkdir(exist_ok=True, parents=True)
        processor.save_pretrained(folder)
        for extra in ("chat_template.jinja", "special_tokens_map.json", "tokenizer_config.json"):
            (folder / extra).unlink(missing_ok=True)
        written = []
        for text, sizes in texts:
            pictures = [Image.fromarray(picture(*s)) for s in sizes]
            done = processor(text=[text], images=pictures, return_tensors="pt")
            written.append({"text": text, "sizes": sizes, "ids": done["input_ids"][0].tolist(),
                            "tiles": int(np.prod(done["pixel_values"].shape[:-3]))})
        (folder / "cases.json").write_text(json.dumps(written))


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    files(out)
    prepared(out)
    chain(out / "chain")


if __name__ == "__main__":
    main()
