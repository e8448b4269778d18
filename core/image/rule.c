/* SPDX-License-Identifier: Apache-2.0
 * rule.c - rules from folders and for kinds of towers; see rule.h. */
#include "canvas.h"
#include "core/base/json.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MEAN_CLIP { 0.48145466, 0.4578275, 0.40821073 }
#define STD_CLIP { 0.26862954, 0.26130258, 0.27577711 }
#define HALVES { 0.5, 0.5, 0.5 }

/* What transformers' classes do where a folder leaves it out. */
static const struct {
    const char *tower, *processor; /* the class's name up to "ImageProcessor" */
    mri_image_rule rule;
} kinds[] = {
    { "llama4_vision_model", "Llama4",
      { .form = MRI_TILES, .side = 336, .resize = true, .max_tiles = 16, .resample = MRI_BILINEAR,
        .rescale = true, .normalize = true, .bf16 = true, .factor = 1 / 255.0, .mean = HALVES,
        .std = HALVES } },
    { "clip_vision_model", "CLIP",
      { .side = 224, .shortest = 224, .resize = true, .crop = true, .resample = MRI_BICUBIC,
        .rescale = true, .normalize = true, .factor = 1 / 255.0, .mean = MEAN_CLIP,
        .std = STD_CLIP } },
    { NULL, "Llava",
      { .side = 224, .shortest = 224, .resize = true, .crop = true, .resample = MRI_BICUBIC,
        .rescale = true, .normalize = true, .factor = 1 / 255.0, .mean = MEAN_CLIP,
        .std = STD_CLIP } },
    { "siglip_vision_model", "Siglip",
      { .side = 224, .resize = true, .resample = MRI_BICUBIC, .rescale = true, .normalize = true,
        .factor = 1 / 255.0, .mean = HALVES, .std = HALVES } },
};
enum { KINDS = sizeof kinds / sizeof *kinds };

mri_image_rule mri_image_rule_usual(const char *tower, int64_t side)
{
    mri_image_rule r = { .resize = true, .resample = MRI_BILINEAR, .rescale = true,
                         .normalize = true, .factor = 1 / 255.0, .mean = HALVES, .std = HALVES };
    for (int i = 0; i < KINDS && tower; i++)
        if (kinds[i].tower && !strcmp(kinds[i].tower, tower))
            r = kinds[i].rule;
    r.side = side;
    if (r.shortest)
        r.shortest = side;
    return r;
}

/* ---- reading a folder ---------------------------------------------------------------------- */

typedef struct reader {
    const mri_json *json;
    const char *file, *at; /* at: "" or "image_processor." */
    mr_err *err;
    mr_status st;
} reader;

static bool number(reader *r, const char *key, double *out)
{
    char path[96];
    snprintf(path, sizeof path, "%s%s", r->at, key);
    return mri_json_service.number(r->json, path, out);
}

static void refuse(reader *r, const char *key, double value, const char *wants)
{
    if (r->st)
        return;
    r->st = mr_fail(r->err, MR_E_MODEL_CONFIG, MR_BLAME_USER, "%.150s: %s%s is %g", r->file, r->at,
                    key, value);
    mr_detail(r->err, "it must be %s", wants);
}

static void flag(reader *r, const char *key, bool *out)
{
    double v;
    if (number(r, key, &v))
        *out = v != 0;
}

static void pixels(reader *r, const char *key, int64_t *out)
{
    double v;
    if (!number(r, key, &v))
        return;
    if (v < 1 || v > 8192 || v != floor(v))
        refuse(r, key, v, "a whole number from 1 to 8192");
    else
        *out = (int64_t)v;
}

/* "size": 224 | {"height":, "width":} | {"shortest_edge":}; *shortest NULL: a square only */
static void size(reader *r, const char *key, int64_t *side, int64_t *shortest)
{
    char path[64];
    int64_t height = 0, width = 0, edge = 0;
    pixels(r, key, &edge); /* a bare number: the class knows what it means */
    if (edge && shortest && *shortest)
        *shortest = edge;
    else if (edge)
        *side = edge;
    if (edge)
        return;
    snprintf(path, sizeof path, "%s.height", key);
    pixels(r, path, &height);
    snprintf(path, sizeof path, "%s.width", key);
    pixels(r, path, &width);
    if (height != width)
        refuse(r, path, (double)width, "the height: tiles are square");
    snprintf(path, sizeof path, "%s.shortest_edge", key);
    pixels(r, path, &edge);
    if (height)
        *side = height;
    if (shortest && (edge || height))
        *shortest = edge;
}

static void three(reader *r, const char *key, double out[3], bool divides)
{
    for (int i = 0; i < 3; i++) {
        char path[64];
        snprintf(path, sizeof path, "%s.%d", key, i);
        if (!number(r, path, &out[i]))
            number(r, key, &out[i]); /* one for all */
        if (!isfinite(out[i]) || (divides && out[i] <= 0))
            refuse(r, path, out[i], divides ? "above 0" : "finite");
    }
}

static void resample(reader *r, mri_resample *out)
{
    double v; /* PIL's numbers */
    if (!number(r, "resample", &v))
        return;
    if (v == 2 || v == 3)
        *out = v == 2 ? MRI_BILINEAR : MRI_BICUBIC;
    else
        refuse(r, "resample", v, "2 (bilinear) or 3 (bicubic)");
}

static mr_status fill(reader *r, mri_image_rule *o)
{
    size(r, "size", &o->side, o->form == MRI_WHOLE ? &o->shortest : NULL);
    flag(r, "do_resize", &o->resize);
    flag(r, "do_center_crop", &o->crop);
    flag(r, "do_pad", &o->pad_square);
    flag(r, "do_rescale", &o->rescale);
    flag(r, "do_normalize", &o->normalize);
    flag(r, "resize_to_max_canvas", &o->fill_canvas);
    if (o->form == MRI_TILES) {
        o->crop = o->pad_square = false;
        pixels(r, "max_patches", &o->max_tiles);
        if (o->max_tiles > MRI_CANVAS_TILES)
            refuse(r, "max_patches", (double)o->max_tiles, "at most 64");
        if (!o->resize)
            refuse(r, "do_resize", 0, "true");
    }
    if (o->crop)
        size(r, "crop_size", &o->side, NULL);
    resample(r, &o->resample);
    number(r, "rescale_factor", &o->factor);
    if (!(o->factor > 0) || !isfinite(o->factor))
        refuse(r, "rescale_factor", o->factor, "above 0");
    three(r, "image_mean", o->mean, false);
    three(r, "image_std", o->std, true);
    return r->st;
}

static mr_status by_processor(const reader *r, const char *class, mri_image_rule *out)
{
    for (int i = 0; i < KINDS; i++) {
        size_t n = strlen(kinds[i].processor);
        if (strncmp(class, kinds[i].processor, n))
            continue;
        if (!strncmp(class + n, "ImageProcessor", 14) || !strcmp(class + n, "FeatureExtractor")) {
            *out = kinds[i].rule;
            return 0;
        }
    }
    mr_fail(r->err, MR_E_UNSUPPORTED, MR_BLAME_USER, "%.150s: pictures are prepared by %.60s, "
            "which mrun does not know", r->file, class);
    mr_hint(r->err, "prepare them elsewhere and give them by --pixel-values FILE.safetensors");
    return MR_E_UNSUPPORTED;
}

static const struct {
    const char *file, *at;
} places[] = { { "processor_config.json", "image_processor." },
               { "preprocessor_config.json", "" } };

mr_status mri_image_rule_read(const char *dir, int64_t side, mri_image_rule *out, mr_err *err)
{
    char *path = NULL;
    mri_json *json = NULL;
    const char *class = NULL;
    mr_status st = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places && !class; i++) {
        struct stat sb;
        char key[64];
        free(path);
        mri_json_free(json);
        json = NULL;
        path = mri_format("%s/%s", dir, places[i].file);
        if (stat(path, &sb))
            continue;
        MR_TRY(mri_json_read(path, 1 << 20, &json, err));
        snprintf(key, sizeof key, "%simage_processor_type", places[i].at);
        if (!mri_json_service.string(json, key, &class))
            continue;
        reader r = { json, path, places[i].at, err, 0 };
        MR_TRY(by_processor(&r, class, out));
        MR_TRY(fill(&r, out));
        if (side > 0 && out->side != side) {
            st = mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER, "%.150s makes pictures of %lld "
                         "pixels a side, the tower takes %lld", path, (long long)out->side,
                         (long long)side);
            goto out;
        }
    }
    if (!class) { /* the folder says nothing of pictures: config.json names the tower */
        const char *tower = NULL;
        free(path);
        path = mri_format("%s/config.json", dir);
        mri_json_free(json);
        MR_TRY(mri_json_read(path, 16 << 20, &json, err));
        mri_json_service.string(json, "vision_config.model_type", &tower);
        *out = mri_image_rule_usual(tower, side);
    }
out:
    mri_json_free(json);
    free(path);
    return st;
}
