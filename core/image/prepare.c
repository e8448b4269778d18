/* SPDX-License-Identifier: Apache-2.0
 * prepare.c - a picture becomes tiles of numbers; see rule.h. Sizes are decided first, so that the
 * tiles of a batch can be counted before any pixel is read. */
#include "canvas.h"
#include <stdlib.h>
#include <string.h>

/* ---- numbers ------------------------------------------------------------------------------- */

static float bf16(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000u;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* What each byte of a channel becomes. Scale and mean are one step in float, and two that round
 * to bf16 in Llama 4's processor. */
static void table_of(const mri_image_rule *r, int channel, float out[256])
{
    bool both = r->rescale && r->normalize, fused = both && !r->bf16, narrow = both && r->bf16;
    float wide = (float)(1.0 / r->factor);
    float mean = (float)r->mean[channel], std = (float)r->std[channel];
    if (fused) {
        mean *= wide;
        std *= wide;
    } else if (narrow) {
        mean = bf16(mean);
        std = bf16(std);
    }
    for (int i = 0; i < 256; i++) {
        float v = (float)i;
        if (r->rescale && !fused)
            v *= (float)r->factor;
        v = narrow ? bf16(v) : v;
        if (r->normalize) {
            v -= mean;
            v = narrow ? bf16(v) : v;
            v /= std;
            v = narrow ? bf16(v) : v;
        }
        out[i] = v;
    }
}

/* The square of `side` at (x, y) as [3, side, side]. */
static void write_tile(const mri_image *image, int64_t x, int64_t y, int64_t side,
                       float table[3][256], float *out)
{
    for (int c = 0; c < 3; c++)
        for (int64_t v = 0; v < side; v++) {
            const uint8_t *from = image->rgb + 3 * ((y + v) * image->width + x) + c;
            for (int64_t u = 0; u < side; u++)
                *out++ = table[c][from[3 * u]];
        }
}

/* ---- sizes --------------------------------------------------------------------------------- */

mri_tiles mri_image_layout(const mri_image_rule *rule, int64_t width, int64_t height)
{
    mri_tiles t = { .rows = 1, .cols = 1, .n = 1, .side = rule->side };
    if (rule->form == MRI_TILES) {
        mri_canvas c = mri_canvas_for(rule, width, height);
        t.rows = c.rows;
        t.cols = c.cols;
        t.n = c.rows * c.cols + (c.rows * c.cols > 1);
    }
    return t;
}

int64_t mri_image_most_tiles(const mri_image_rule *rule)
{
    return rule->form == MRI_TILES && rule->max_tiles > 1 ? rule->max_tiles + 1 : 1;
}

/* ---- the two forms ------------------------------------------------------------------------- */

static mr_status tiles(const mri_image_rule *r, const mri_image *image, const mri_tiles *t,
                       float table[3][256], mr_err *err)
{
    static const uint8_t black[3] = { 0 };
    mri_image small = { 0 }, canvas = { 0 }, global = { 0 };
    mri_canvas c = mri_canvas_for(r, image->width, image->height);
    int64_t tile = 3 * r->side * r->side;
    float *out = t->pixels;
    mr_status st = 0;
    MR_TRY(mri_image_resize(image, c.width, c.height, r->resample, &small, err));
    MR_TRY(mri_image_place(&small, c.cols * r->side, c.rows * r->side, 0, 0, black, &canvas, err));
    for (int64_t y = 0; y < c.rows; y++)
        for (int64_t x = 0; x < c.cols; x++, out += tile)
            write_tile(&canvas, x * r->side, y * r->side, r->side, table, out);
    if (t->n > 1) {
        MR_TRY(mri_image_resize(image, r->side, r->side, r->resample, &global, err));
        write_tile(&global, 0, 0, r->side, table, out);
    }
out:
    mri_image_free(&small);
    mri_image_free(&canvas);
    mri_image_free(&global);
    return st;
}

/* Replaces *image by a copy of it in the middle of a square. */
static mr_status to_square(const mri_image_rule *r, mri_image *image, mr_err *err)
{
    int64_t side = image->width > image->height ? image->width : image->height;
    uint8_t ground[3];
    mri_image square;
    for (int c = 0; c < 3; c++) {
        double v = r->mean[c] * 255;
        ground[c] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
    }
    mr_status st = mri_image_place(image, side, side, (side - image->width) / 2,
                                   (side - image->height) / 2, ground, &square, err);
    if (st)
        return st;
    mri_image_free(image);
    *image = square;
    return 0;
}

static mr_status to_size(const mri_image_rule *r, mri_image *image, mr_err *err)
{
    int64_t w = r->side, h = r->side;
    mri_image other;
    if (r->shortest) {
        bool tall = image->width <= image->height;
        double longer = (double)(tall ? image->height : image->width);
        double shorter = (double)(tall ? image->width : image->height);
        int64_t l = (int64_t)((double)r->shortest * longer / shorter);
        w = tall ? r->shortest : l;
        h = tall ? l : r->shortest;
    }
    mr_status st = mri_image_resize(image, w, h, r->resample, &other, err);
    if (st)
        return st;
    mri_image_free(image);
    *image = other;
    return 0;
}

/* The middle; a side that is too short gets black at both ends, the odd line at the last. */
static mr_status to_middle(const mri_image_rule *r, mri_image *image, mr_err *err)
{
    static const uint8_t black[3] = { 0 };
    int64_t gap_x = r->side - image->width, gap_y = r->side - image->height;
    mri_image middle;
    mr_status st = mri_image_place(image, r->side, r->side,
                                   gap_x > 0 ? gap_x / 2 : -(-gap_x / 2),
                                   gap_y > 0 ? gap_y / 2 : -(-gap_y / 2), black, &middle, err);
    if (st)
        return st;
    mri_image_free(image);
    *image = middle;
    return 0;
}

static mr_status whole(const mri_image_rule *r, const mri_image *image, const mri_tiles *t,
                       float table[3][256], mr_err *err)
{
    mri_image x = { 0 };
    mr_status st = 0;
    MR_TRY(mri_image_new(image->width, image->height, &x, err));
    memcpy(x.rgb, image->rgb, (size_t)(image->width * image->height * 3));
    if (r->pad_square && x.width != x.height)
        MR_TRY(to_square(r, &x, err));
    if (r->resize)
        MR_TRY(to_size(r, &x, err));
    if (r->crop)
        MR_TRY(to_middle(r, &x, err));
    if (x.width != r->side || x.height != r->side) {
        st = mr_fail(err, MR_E_IMAGE_LIMIT, MR_BLAME_USER, "the picture is %lld x %lld pixels and "
                     "its processor leaves it so; the tower takes %lld x %lld", (long long)x.width,
                     (long long)x.height, (long long)r->side, (long long)r->side);
        mr_hint(err, "set do_resize or do_center_crop in preprocessor_config.json, or resize it");
        goto out;
    }
    write_tile(&x, 0, 0, r->side, table, t->pixels);
out:
    mri_image_free(&x);
    return st;
}

mr_status mri_image_prepare_into(const mri_image_rule *rule, const mri_image *image, float *pixels,
                                 int64_t room, mri_tiles *out, mr_err *err)
{
    float table[3][256];
    *out = mri_image_layout(rule, image->width, image->height);
    if (out->n > room) {
        mr_fail(err, MR_E_IMAGE_LIMIT, MR_BLAME_USER, "a picture of %lld x %lld pixels needs %lld "
                "tiles, there is room for %lld", (long long)image->width, (long long)image->height,
                (long long)out->n, (long long)room);
        mr_hint(err, "allow more tiles a sample, or give smaller pictures");
        return MR_E_IMAGE_LIMIT;
    }
    out->pixels = pixels;
    for (int c = 0; c < 3; c++)
        table_of(rule, c, table[c]);
    return (rule->form == MRI_TILES ? tiles : whole)(rule, image, out, table, err);
}

mr_status mri_image_prepare(const mri_image_rule *rule, const mri_image *image, mri_tiles *out,
                            mr_err *err)
{
    mri_tiles t = mri_image_layout(rule, image->width, image->height);
    float *pixels = calloc((size_t)(t.n * 3 * t.side * t.side), sizeof *pixels);
    *out = (mri_tiles){ 0 };
    if (!pixels)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for %lld tiles of %lld pixels a "
                       "side", (long long)t.n, (long long)t.side);
    mr_status st = mri_image_prepare_into(rule, image, pixels, t.n, out, err);
    if (st) {
        free(pixels);
        *out = (mri_tiles){ 0 };
    }
    return st;
}

void mri_tiles_free(mri_tiles *t)
{
    free(t->pixels);
    *t = (mri_tiles){ 0 };
}

mr_status mri_image_from_tile(const mri_image_rule *rule, const float *pixels, mri_image *out,
                              mr_err *err)
{
    int64_t n = rule->side * rule->side;
    mr_status st = mri_image_new(rule->side, rule->side, out, err);
    for (int c = 0; !st && c < 3; c++) {
        float table[256];
        table_of(rule, c, table); /* rising: the byte whose value is nearest */
        for (int64_t i = 0; i < n; i++) {
            int low = 0, high = 255;
            while (high - low > 1) {
                int middle = (low + high) / 2;
                *(table[middle] <= pixels[c * n + i] ? &low : &high) = middle;
            }
            float below = pixels[c * n + i] - table[low], above = table[high] - pixels[c * n + i];
            out->rgb[3 * i + c] = (uint8_t)(below <= above ? low : high);
        }
    }
    return st;
}
