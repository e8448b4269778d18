/* SPDX-License-Identifier: Apache-2.0
 *
 * patches.c - rows of pictures: tiles cut into patches, positions and class rows added, patches
 * shuffled into wider rows, rotated in two dimensions, and merged into a text's rows. All move
 * each byte once; a row is made by one thread, and gradients that sum over rows are cut by columns,
 * so that every sum has the order of the rows.
 */
#include "turn.h"
#include <stdlib.h>

struct patches {
    struct kernel base;
    int64_t rows, d;                     /* rows of the first operand, their width         */
    int64_t tile, first, at;             /* rows of a tile; of patch 0; the class row or -1 */
    int64_t high, wide, ratio, features; /* patches; shuffle_patches; merge_rows           */
    int64_t side, channels, patch;       /* patchify                                       */
    int64_t heads, n;                    /* rope_2d: pairs turned in each direction        */
    double *freq;                        /* [n] */
    float sign;
    uint64_t stride;                     /* bytes of a part's cos and sin                  */
    int inverse;
};

enum { GRAIN = 16384 };

#define SELF const struct patches *k = (const struct patches *)base

INLINE void copy_row(arr y, int64_t iy, arr x, int64_t ix, int64_t n)
{
    for (int64_t i = 0; i < n; i += W) {
        int l = LANES(i, n);
        st(y, iy + i, l, ld(x, ix + i, l));
    }
}

/* rows [lo, hi) of `rows` in each part; the body sees the row as r */
#define EACH_ROW(rows_, width, ...) \
    do { \
        int64_t rows__ = (rows_); \
        int parts = cpu_parts(base, rows__ * (width), GRAIN); \
        _Pragma("omp parallel for schedule(static, 1) if (parts > 1)") for (int p = 0; p < parts; \
                                                                            p++) { \
            int64_t lo, hi; \
            cpu_range(rows__, 1, p, parts, &lo, &hi); \
            for (int64_t r = lo; r < hi; r++) \
                __VA_ARGS__ \
        } \
    } while (0)

/* ---- patchify, patch_positions -------------------------------------------------------------- */
static mr_status patchify_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                              void *ws, mr_err *err)
{
    SELF;
    arr x = in_arr(base, in, 0), y = out_arr(base, out, 0);
    int64_t g = k->side / k->patch, width = k->channels * k->patch * k->patch;
    EACH_ROW(k->rows, width, {
        int64_t n = r / (g * g), row = r / g % g * k->patch, col = r % g * k->patch, o = r * width;
        for (int64_t c = 0; c < k->channels; c++)
            for (int64_t i = 0; i < k->patch; i++, o += k->patch)
                copy_row(y, o, x, ((n * k->channels + c) * k->side + row + i) * k->side + col,
                         k->patch);
    });
    (void)ws, (void)err;
    return MR_OK;
}

static mr_status positions_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                               void *ws, mr_err *err)
{
    SELF;
    arr x = in_arr(base, in, 0), pos = in_arr(base, in, 1), y = out_arr(base, out, 0);
    arr cls = k->at < 0 ? x : in_arr(base, in, 2);
    int64_t patches = k->tile - (k->at >= 0);
    EACH_ROW(k->rows, k->d, {
        int64_t at = r % k->tile;
        arr from = at == k->at ? cls : arr_at(x, (r / k->tile * patches + at - k->first) * k->d);
        for (int64_t i = 0; i < k->d; i += W) {
            int l = LANES(i, k->d);
            st(y, r * k->d + i, l, ld(from, i, l) + ld(pos, at * k->d + i, l));
        }
    });
    (void)ws, (void)err;
    return MR_OK;
}

static mr_status positions_wgrad_run(const struct kernel *base, const mr_buf *in,
                                     const mr_buf *out, void *ws, mr_err *err)
{
    SELF;
    arr dy = in_arr(base, in, 0);
    float *dpos = in[1].data, *dcls = in[2].data;
    int parts = cpu_parts(base, k->rows * k->d, GRAIN);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(k->d, CPU_ALIGN / 4, p, parts, &lo, &hi);
        for (int64_t r = 0; r < k->rows; r++)
            for (int64_t i = lo; i < hi; i += W) {
                int l = LANES(i, hi);
                vf v = ld(dy, r * k->d + i, l);
                arr a = { dpos ? dpos + r % k->tile * k->d : NULL, 0 }, b = { dcls, 0 };
                if (dpos)
                    st(a, i, l, ld(a, i, l) + v);
                if (dcls && r % k->tile == k->at)
                    st(b, i, l, ld(b, i, l) + v);
            }
    }
    (void)out, (void)ws, (void)err;
    return MR_OK;
}

/* ---- shuffle_patches ------------------------------------------------------------------------ */
/* by the rows of patches that lie apart, whichever side they are on */
static mr_status shuffle_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                             void *ws, mr_err *err)
{
    SELF;
    arr x = in_arr(base, in, 0), y = out_arr(base, out, 0);
    int64_t q = k->ratio, outs = k->high * k->wide / (q * q);
    EACH_ROW(k->rows, k->d, {
        int64_t at = r % k->tile, row = (at - k->first) / k->wide, col = (at - k->first) % k->wide;
        int64_t joined = ((r / k->tile * outs + row / q * (k->wide / q) + col / q) * q * q +
                          row % q * q + col % q) * k->d;
        if (at == k->at) {
            if (k->inverse)
                zero(y, r * k->d, k->d);
        } else if (k->inverse) {
            copy_row(y, r * k->d, x, joined, k->d);
        } else {
            copy_row(y, joined, x, r * k->d, k->d);
        }
    });
    (void)ws, (void)err;
    return MR_OK;
}

/* ---- rope_2d -------------------------------------------------------------------------------- */
static mr_status rope_2d_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                             void *ws, mr_err *err)
{
    SELF;
    arr x = in_arr(base, in, 0), y = out_arr(base, out, 0);
    int64_t n2 = 2 * k->n, width = k->d / k->heads;
    EACH_ROW(k->rows, k->d, {
        float *c = (float *)((char *)ws + p * k->stride), *s = c + 2 * n2;
        int64_t at = r % k->tile, patch = at - k->first;
        if (at == k->at) {
            copy_row(y, r * k->d, x, r * k->d, k->d);
            continue;
        }
        turn_angles(k->freq, k->n, (int32_t)(patch % k->wide) + 1, 1, k->sign, 1, c, s);
        turn_angles(k->freq, k->n, (int32_t)(patch / k->wide) + 1, 1, k->sign, 1, c + n2, s + n2);
        for (int64_t h = 0; h < k->heads; h++) {
            int64_t i = r * k->d + h * width;
            turn_pairs(arr_at(x, i), arr_at(y, i), 2 * n2, c, s);
            copy_row(y, i + 2 * n2, x, i + 2 * n2, width - 2 * n2);
        }
    });
    (void)err;
    return MR_OK;
}

/* ---- merge_rows ----------------------------------------------------------------------------- */
static mr_status check_rows(const struct patches *k, const int32_t *rows, mr_err *err)
{
    for (int64_t t = 0; t < k->rows; t++)
        if (rows[t] >= k->features)
            return mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                           "merge_rows: rows[%lld] is %d, there are %lld features", (long long)t,
                           rows[t], (long long)k->features);
    return MR_OK;
}

static mr_status merge_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                           mr_err *err)
{
    SELF;
    const int32_t *rows = in[2].data;
    arr x = in_arr(base, in, 0), f = in_arr(base, in, 1), y = out_arr(base, out, 0);
    if (check_rows(k, rows, err))
        return MR_E_ARG;
    EACH_ROW(k->rows, k->d, {
        copy_row(y, r * k->d, rows[r] < 0 ? x : f, (rows[r] < 0 ? r : rows[r]) * k->d, k->d);
    });
    (void)ws;
    return MR_OK;
}

static mr_status merge_bwd_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                               void *ws, mr_err *err)
{
    SELF;
    const int32_t *rows = in[1].data;
    arr dy = in_arr(base, in, 0), dx = out_arr(base, out, 0), df = out_arr(base, out, 1);
    arr sum = { base->out_bf[1] ? ws : df.p, 0 };
    int parts = cpu_parts(base, (k->rows + k->features) * k->d, GRAIN);
    if (check_rows(k, rows, err))
        return MR_E_ARG;
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(k->d, CPU_ALIGN, p, parts, &lo, &hi);
        for (int64_t m = 0; m < k->features; m++)
            zero(sum, m * k->d + lo, hi - lo);
        for (int64_t t = 0; t < k->rows; t++)
            for (int64_t i = lo; i < hi; i += W) {
                int l = LANES(i, hi);
                int64_t at = rows[t] * k->d + i;
                vf v = ld(dy, t * k->d + i, l);
                st(dx, t * k->d + i, l, rows[t] < 0 ? v : (vf){ 0 });
                if (rows[t] >= 0)
                    st(sum, at, l, ld(sum, at, l) + v);
            }
        for (int64_t m = 0; m < k->features && sum.p != df.p; m++)
            copy_row(df, m * k->d + lo, sum, m * k->d + lo, hi - lo);
    }
    return MR_OK;
}

/* ---- from types to kernels ------------------------------------------------------------------ */
/* `tile` rows of patches, beside them the class row */
static void classes(struct patches *k, const mr_call *c, int64_t patches)
{
    const char *where = mr_attr_s(c, "class", "none");
    int first = !strcmp(where, "first"), last = !strcmp(where, "last");
    k->tile = patches + (first || last);
    k->first = first;
    k->at = first ? 0 : last ? patches : -1;
}

static mr_status patchify_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct patches *k = (struct patches *)base;
    k->rows = mr_rows(c->out[0]);
    k->channels = c->in[0]->dim[1];
    k->side = c->in[0]->dim[2];
    k->patch = mr_attr_i(c, "patch", 1);
    base->run = patchify_run;
    (void)err;
    return MR_OK;
}

static mr_status positions_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct patches *k = (struct patches *)base;
    int wgrad = !c->n_out;
    int64_t tile = wgrad ? mr_attr_i(c, "rows", 1) : c->in[1]->dim[0];
    classes(k, c, tile - (strcmp(mr_attr_s(c, "class", "none"), "none") != 0));
    k->rows = mr_rows(wgrad ? c->in[0] : c->out[0]);
    k->d = mr_last(c->in[0]);
    base->run = wgrad ? positions_wgrad_run : positions_run;
    (void)err;
    return MR_OK;
}

static mr_status shuffle_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct patches *k = (struct patches *)base;
    const mr_type *apart;
    k->wide = mr_attr_i(c, "grid", 1);
    k->high = mr_attr_i(c, "runs", 0) ? mr_attr_i(c, "runs", 0) : k->wide;
    k->ratio = mr_attr_i(c, "ratio", 1);
    k->inverse = mr_attr_i(c, "inverse", 0) != 0;
    classes(k, c, k->high * k->wide);
    apart = k->inverse ? c->out[0] : c->in[0];
    k->rows = mr_rows(apart);
    k->d = mr_last(apart);
    base->run = shuffle_run;
    (void)err;
    return MR_OK;
}

static void rope_2d_release(struct kernel *base)
{
    free(((struct patches *)base)->freq);
}

static mr_status rope_2d_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct patches *k = (struct patches *)base;
    const mr_attr *f = mr_attr_find(c, "inv_freq");
    k->wide = mr_attr_i(c, "grid", 1);
    classes(k, c, k->wide * k->wide);
    k->rows = mr_rows(c->in[0]);
    k->d = mr_last(c->in[0]);
    k->heads = k->d / mr_attr_i(c, "head_dim", k->d);
    k->n = f->n;
    k->sign = mr_attr_i(c, "inverse", 0) ? -1.0f : 1.0f;
    k->freq = malloc((size_t)(f->n ? f->n : 1) * sizeof(double));
    if (!k->freq)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for %u frequencies", f->n);
    memcpy(k->freq, f->u.fs, f->n * sizeof(double));
    k->stride = cpu_round(8 * (uint64_t)k->n * 4);
    base->workspace = k->stride * (uint64_t)base->threads;
    base->flags |= MR_K_INPLACE0;
    base->run = rope_2d_run;
    base->release = rope_2d_release;
    return MR_OK;
}

static mr_status merge_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct patches *k = (struct patches *)base;
    int bwd = c->n_in == 2;
    k->rows = mr_rows(c->in[0]);
    k->d = mr_last(c->in[0]);
    k->features = bwd ? mr_attr_i(c, "features", 0) : mr_rows(c->in[1]);
    base->run = bwd ? merge_bwd_run : merge_run;
    if (bwd && base->out_bf[1])
        base->workspace = cpu_round((uint64_t)(k->features * k->d) * 4);
    (void)err;
    return MR_OK;
}

const struct op_row ISA_NAME(patches_rows)[] = {
    { "patchify", "x>x", sizeof(struct patches), patchify_prepare },
    { "patch_positions", "xxX>x", sizeof(struct patches), positions_prepare },
    { "patch_positions.wgrad", "xFF>", sizeof(struct patches), positions_prepare },
    { "shuffle_patches", "x>x", sizeof(struct patches), shuffle_prepare },
    { "rope_2d", "x>x", sizeof(struct patches), rope_2d_prepare },
    { "merge_rows", "xxi>x", sizeof(struct patches), merge_prepare },
    { "merge_rows.bwd", "xi>xx", sizeof(struct patches), merge_prepare },
    { 0 },
};
