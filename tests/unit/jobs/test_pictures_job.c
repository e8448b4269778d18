/* SPDX-License-Identifier: Apache-2.0
 *
 * A small vision-language model learns from pictures to tell three stripes apart in words, resumes
 * bit for bit, names held-out pictures, and scores and goes on from files as it does from the set.
 */
#include "core/image/image.h"
#include "job.h"
#include <math.h>

enum { SIDE = 8, ITEMS = 90, CLASSES = 3 };

static const char profile[] =
    "[run]\nseed = 3\ndir = run\n[job]\nrun = train\n[backend]\nplugin = cpu\n"
    "[backend.cpu]\nthreads = 1\n[sink]\nplugin = jsonl\n"
    "[data]\nplugin = captions\n[data.captions]\nimages = x.idx\nlabels = y.idx\n"
    "classes = flat, tall, wide\nprompt = \"it is \"\nvalid_fraction = 0.2\n"
    "[tokenizer]\nplugin = bytes\n[tokenizer.bytes]\neod = true\n"
    "[model]\nplugin = vlm\nlayers = 1\nhidden = 32\nheads = 2\nkv_heads = 1\nhead_dim = 16\n"
    "ffn_hidden = 48\nvocab = 258\nmax_positions = 64\ninit_std = 0.05\n"
    "[model.vlm]\nimage_size = 8\npatch_size = 4\ntower_layers = 1\ntower_hidden = 32\n"
    "tower_heads = 2\n"
    "tower_ffn_hidden = 48\nfeature_layer = -1\nimage_token = 257\n"
    "[optimizer]\nplugin = adamw\nlr = 5e-3\nschedule = constant\n"
    "[train]\nsteps = 80\nseq = 16\nimages = 1\nmicro_batch = 8\nglobal_batch = 8\n"
    "eval_every = 40\n[checkpoint]\nkeep = 2\n";

/* Class 0: one grey; 1: light columns; 2: light rows. Each picture has its own brightness. */
static void draw(int i, uint8_t *to)
{
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++) {
            int on = i % CLASSES == 0 ? 0 : i % CLASSES == 1 ? x % 2 : y % 2;
            to[y * SIDE + x] = (uint8_t)(40 + i + 90 * on);
        }
}

static job job_with_pictures(void)
{
    static char x[16 + ITEMS * SIDE * SIDE] = { 0, 0, 8, 3, 0, 0, 0, ITEMS, 0, 0, 0, SIDE, 0, 0, 0,
                                                SIDE };
    static char y[8 + ITEMS] = { 0, 0, 8, 1, 0, 0, 0, ITEMS };
    job j = job_new();
    for (int i = 0; i < ITEMS; i++) {
        draw(i, (uint8_t *)x + 16 + i * SIDE * SIDE);
        y[8 + i] = (char)(i % CLASSES);
    }
    job_write(job_path(&j, "x.idx"), x, sizeof x);
    job_write(job_path(&j, "y.idx"), y, sizeof y);
    job_write(job_path(&j, "v.ini"), profile, sizeof profile - 1);
    return j;
}

static void write_picture(const job *j, const char *name, int i)
{
    mr_err err = MR_ERR_INIT;
    uint8_t grey[SIDE * SIDE];
    mri_image image;
    mri_str png = { 0 };
    draw(i, grey);
    cr_assert_eq(mri_image_new(SIDE, SIDE, &image, &err), 0);
    for (int k = 0; k < SIDE * SIDE * 3; k++)
        image.rgb[k] = grey[k / 3];
    cr_assert_eq(mri_image_to_png(&image, &png, &err), 0, "%s", err.what);
    job_write(job_path(j, name), png.s, png.n);
    mri_image_free(&image);
    mri_str_free(&png);
}

static double number_in(const char *json, const char *key)
{
    json_t *o = json_loads(json, 0, NULL);
    cr_assert_not_null(o, "no JSON: %s", json);
    double v = json_number_value(json_object_get(o, key));
    json_decref(o);
    return v;
}

/* "a" is the likelier of two answers to the picture. */
static double score_of(const job *j, const char *picture, const char *answer)
{
    char *text = mri_format("<image>it is %s", answer);
    job_result r = job_run(j, "score", "run", "--text", text, "--image", picture);
    JOB_EXPECT(&r, 0, NULL);
    return number_in(r.out, "sum");
}

Test(pictures, are_learnt_named_scored_and_described)
{
    job j = job_with_pictures();
    job_result r = job_run(&j, "v.ini");
    JOB_EXPECT(&r, 0, NULL);

    r = job_run(&j, "answers", "run", "-o", "page.html");
    JOB_EXPECT(&r, 0, NULL);
    cr_assert_gt(number_in(r.out, "accuracy"), 0.9, "%s", r.out);
    cr_assert_gt(number_in(r.out, "samples"), 5);
    cr_assert_eq(number_in(r.out, "choices"), CLASSES);
    char *page = job_read(job_path(&j, "page.html"));
    char *own = job_read(job_path(&j, "run/answers.html"));
    cr_assert(strstr(page, "data:image/png;base64,iVBORw0KGgo"), "the page shows no picture");
    cr_assert(strstr(page, ">wide<") && strstr(page, "right answers"));
    cr_assert_str_eq(page, own, "training writes the same page");

    write_picture(&j, "tall.png", 46);
    write_picture(&j, "wide.png", 47);
    cr_assert_gt(score_of(&j, "tall.png", "tall"), score_of(&j, "tall.png", "wide"));
    cr_assert_gt(score_of(&j, "wide.png", "wide"), score_of(&j, "wide.png", "tall"));

    r = job_run(&j, "generate", "run", "--prompt", "<image>it is ", "--image", "wide.png",
                "--max-tokens", "8", "--temperature", "0");
    JOB_EXPECT(&r, 0, NULL);
    cr_assert(strstr(r.out, "it is wide"), "%s", r.out);

    /* two prompts at once, each with its own picture */
    static const char lines[] = "{\"prompt\":\"<image>it is \",\"images\":[\"tall.png\"]}\n"
                                "{\"prompt\":\"<image>it is \",\"images\":[\"wide.png\"]}\n";
    job_write(job_path(&j, "two.jsonl"), lines, sizeof lines - 1);
    r = job_run(&j, "generate", "run", "--jsonl", "two.jsonl", "--max-tokens", "8",
                "--temperature", "0", "-q");
    JOB_EXPECT(&r, 0, NULL);
    const char *tall = strstr(r.out, "\"text\":\"tall"), *wide = strstr(r.out, "\"text\":\"wide");
    cr_assert(tall && wide && tall < wide, "%s", r.out);
    job_free(&j);
}

Test(pictures, a_stopped_run_goes_on_bit_for_bit)
{
    job j = job_with_pictures();
    job_result r = job_run(&j, "v.ini", "--set", "train.steps=12", "--set", "run.dir=whole");
    JOB_EXPECT(&r, 0, NULL);
    r = job_run(&j, "v.ini", "--set", "train.steps=5", "--set", "run.dir=parts");
    JOB_EXPECT(&r, 0, NULL);
    r = job_run(&j, "v.ini", "--set", "train.steps=12", "--set", "run.dir=parts");
    JOB_EXPECT(&r, 0, NULL);
    job_same_run(job_path(&j, "whole"), job_path(&j, "parts"));
    job_free(&j);
}

Test(pictures, what_does_not_fit_is_named)
{
    job j = job_with_pictures();
    write_picture(&j, "a.png", 1);
    job_write(job_path(&j, "b.png"), "no picture", 10);
    job_result r = job_run(&j, "v.ini", "--set", "train.steps=1");
    JOB_EXPECT(&r, 0, NULL);
    r = job_run(&j, "score", "run", "--text", "nothing", "--image", "a.png");
    JOB_EXPECT(&r, 2, "E0307", "0 placeholders <image>", "1 picture");
    r = job_run(&j, "score", "run", "--ids", "257 257 257 1", "--image", "a.png");
    cr_assert_neq(r.code, 0);
    cr_assert(strstr(r.err, "3 placeholders") || strstr(r.err, "3 image tokens"), "%s", r.err);
    r = job_run(&j, "score", "run", "--text", "<image>", "--image", "b.png");
    JOB_EXPECT(&r, 2, "E0305", "b.png is no PNG");
    r = job_run(&j, "score", "run", "--ids", "1", "--pixel-values", "b.png");
    JOB_EXPECT(&r, 2, "b.png");
    r = job_run(&j, "v.ini", "--set", "train.images=0", "--set", "run.dir=none");
    JOB_EXPECT(&r, 2, "E0107", "data/captions has pictures");
    r = job_run(&j, "v.ini", "--set", "train.seq=8", "--set", "run.dir=short");
    cr_assert_neq(r.code, 0);
    cr_assert(strstr(r.err, "a sequence holds 8"), "%s", r.err);
    job_free(&j);
}

/* The sequence of a parity fixture that starts at `from` and has the tiles from `tile` on: scored
 * with its pixels in a file, its logits are those of transformers. */
static void fixture(const char *name, int64_t from, int64_t tile)
{
    job j = job_new();
    mr_err err = MR_ERR_INIT;
    char *dir = mri_format("%s/tests/parity/fixtures/%s", getenv("MRUN_SOURCE"), name);
    mri_safetensors *want, *got;
    cr_assert_eq(mri_safetensors_open(mri_format("%s/expect.safetensors", dir), &want, &err), 0);
    const mri_tensor *pixels = mri_safetensors_find(want, "pixels");
    const mri_tensor *ids = mri_safetensors_find(want, "ids");
    const mri_tensor *logits = mri_safetensors_find(want, "logits");
    int64_t side = pixels->type.dim[2], n = mr_numel(&ids->type), vocab = logits->type.dim[1];

    mri_tensor x = { "pixel_values", pixels->type,
                     (const float *)pixels->data + tile * 3 * side * side };
    x.type.dim[0] -= tile;
    cr_assert_eq(mri_safetensors_write(job_path(&j, "x.safetensors"), &x, 1, NULL, &err), 0);
    mri_str words = { 0 };
    for (int64_t i = from; i < n; i++)
        mri_str_fmt(&words, "%d ", ((const int32_t *)ids->data)[i]);
    job_result r = job_run(&j, "score", "--hf", dir, "--ids", words.s, "--pixel-values",
                           "x.safetensors", "--logits", "out.safetensors", "--set",
                           "backend.plugin=cpu");
    JOB_EXPECT(&r, 0, NULL);

    cr_assert_eq(mri_safetensors_open(job_path(&j, "out.safetensors"), &got, &err), 0);
    const float *g = mri_safetensors_find(got, "logits")->data;
    const float *w = (const float *)logits->data + from * vocab;
    double largest = 0, off = 0;
    for (int64_t i = 0; i < (n - from) * vocab; i++) {
        largest = fmax(largest, fabs(w[i]));
        off = fmax(off, fabs(g[i] - w[i]));
    }
    cr_assert_leq(off, 1e-5 * largest, "%s: off by %g of %g", name, off, largest);

    const mri_tensor *greedy = mri_safetensors_find(want, "greedy");
    mri_str more = { 0 };
    for (int64_t i = 0; i < mr_numel(&greedy->type); i++)
        mri_str_fmt(&more, "%s%d", i ? " " : "", ((const int32_t *)greedy->data)[i]);
    r = job_run(&j, "generate", "--hf", dir, "--ids", words.s, "--pixel-values", "x.safetensors",
                "--max-tokens", mri_format("%lld", (long long)mr_numel(&greedy->type)),
                "--temperature", "0", "--set", "backend.plugin=cpu", "-q");
    JOB_EXPECT(&r, 0, NULL);
    cr_assert_not_null(strstr(r.out, more.s), "%s goes on with %s, not with %s", name, r.out,
                       more.s);

    x.type.dim[0]--;
    cr_assert_eq(mri_safetensors_write(job_path(&j, "less.safetensors"), &x, 1, NULL, &err), 0);
    r = job_run(&j, "score", "--hf", dir, "--ids", words.s, "--pixel-values", "less.safetensors",
                "--set", "backend.plugin=cpu");
    cr_assert_neq(r.code, 0, "one tile too few is refused");
    mri_safetensors_close(want);
    mri_safetensors_close(got);
    job_free(&j);
}

Test(pictures, prepared_pixels_of_llama_4_give_the_logits_of_transformers)
{
    fixture("llama4-vlm-tiles", 11, 1);
}

Test(pictures, prepared_pixels_of_llava_give_the_logits_of_transformers)
{
    fixture("llava-clip", 4, 0);
}
