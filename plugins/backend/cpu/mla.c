/* SPDX-License-Identifier: Apache-2.0
 *
 * mla.c - heads of latent attention, and rows cut in two: rope_tail, mla_kv, mla_kv.bwd, split,
 * concat. All are bound by memory: rows are copied as bytes, only the rotated part of a head is
 * computed, and what the heads share is turned once a token. Few pairs are turned in double and
 * rounded once: that costs nothing there, and tiny models are compared with references.
 */
#include "turn.h"
#include <stdlib.h>

enum { GRAIN = 16384 }; /* elements that are worth a thread */

struct mla {
    struct kernel base;
    int64_t tokens, heads;
    int64_t nope, rope, value; /* widths in a head */
    float factor, sign;
    int few;         /* pairs: turn_exact() */
    double exact;    /* factor, before it was rounded */
    double *freq;    /* [rope / 2] */
    uint64_t stride; /* bytes of a part's scratch: cos, sin and sums, [rope] each */
};

#define SELF const struct mla *k = (const struct mla *)base

static inline void *at(arr a, int64_t i)
{
    return arr_at(a, i).p;
}

static inline void copy(arr to, int64_t i, arr from, int64_t j, int64_t n) /* of one dtype */
{
    memmove(at(to, i), at(from, j), (size_t)n * (from.bf ? 2 : 4));
}

/* The pairs of n rows that lie `step` apart, added up, turned by the angles of pos times sign. */
static void turn_exact(const struct mla *k, arr x, int64_t n, int64_t step, arr y, int32_t pos,
                       double sign)
{
    for (int64_t i = 0; i < k->rope; i += 2) {
        double angle = pos * k->freq[i / 2], a = 0, b = 0;
        double c = cos(angle) * k->exact, s = sin(angle) * k->exact * sign;
        for (int64_t r = 0; r < n; r++) {
            a += (double)get(x, r * step + i);
            b += (double)get(x, r * step + i + 1);
        }
        put(y, i, (float)(a * c - b * s));
        put(y, i + 1, (float)(b * c + a * s));
    }
}

static int parts_of(const struct mla *k)
{
    int parts = cpu_parts(&k->base, k->tokens * k->heads * (k->nope + k->rope + k->value), GRAIN);
    return parts <= k->tokens ? parts : k->tokens > 0 ? (int)k->tokens : 1;
}

/* ---- rope_tail --------------------------------------------------------------------------- */
static mr_status tail_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                          mr_err *err)
{
    SELF;
    arr x = in_arr(base, in, 0), y = out_arr(base, out, 0);
    const int32_t *pos = in[1].data;
    int parts = parts_of(k);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        float *c = (float *)((char *)ws + p * k->stride), *s = c + k->rope;
        int64_t lo, hi;
        cpu_range(k->tokens, 1, p, parts, &lo, &hi);
        for (int64_t t = lo; t < hi; t++) {
            if (!k->few)
                turn_angles(k->freq, k->rope / 2, pos[t], k->factor, k->sign, 1, c, s);
            for (int64_t h = 0; h < k->heads; h++) {
                int64_t i = (t * k->heads + h) * (k->nope + k->rope);
                if (x.p != y.p)
                    copy(y, i, x, i, k->nope);
                if (k->few)
                    turn_exact(k, arr_at(x, i + k->nope), 1, 0, arr_at(y, i + k->nope), pos[t],
                               (double)k->sign);
                else
                    turn_pairs(arr_at(x, i + k->nope), arr_at(y, i + k->nope), k->rope, c, s);
            }
        }
    }
    (void)err;
    return MR_OK;
}

/* ---- mla_kv ------------------------------------------------------------------------------ */
static mr_status kv_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                        mr_err *err)
{
    SELF;
    arr kv = in_arr(base, in, 0), kr = in_arr(base, in, 1);
    arr key = out_arr(base, out, 0), val = out_arr(base, out, 1);
    const int32_t *pos = in[2].data;
    int64_t n = k->nope, r = k->rope, v = k->value, H = k->heads;
    int parts = parts_of(k);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        float *c = (float *)((char *)ws + p * k->stride), *s = c + r;
        int64_t lo, hi;
        cpu_range(k->tokens, 1, p, parts, &lo, &hi);
        for (int64_t t = lo; t < hi; t++) {
            int64_t first = t * H * (n + r) + n;
            if (k->few) {
                turn_exact(k, arr_at(kr, t * r), 1, 0, arr_at(key, first), pos[t], 1);
            } else {
                turn_angles(k->freq, r / 2, pos[t], k->factor, 1, 1, c, s);
                turn_pairs(arr_at(kr, t * r), arr_at(key, first), r, c, s);
            }
            for (int64_t h = 0; h < H; h++) {
                int64_t to = (t * H + h) * (n + r), from = (t * H + h) * (n + v);
                copy(key, to, kv, from, n);
                if (h)
                    copy(key, to + n, key, first, r);
                copy(val, (t * H + h) * v, kv, from + n, v);
            }
        }
    }
    (void)err;
    return MR_OK;
}

/* ---- mla_kv.bwd -------------------------------------------------------------------------- */
static mr_status kv_bwd_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                            void *ws, mr_err *err)
{
    SELF;
    arr dk = in_arr(base, in, 0), dv = in_arr(base, in, 1);
    arr dkv = out_arr(base, out, 0), dkr = out_arr(base, out, 1);
    const int32_t *pos = in[2].data;
    int64_t n = k->nope, r = k->rope, v = k->value, H = k->heads;
    int parts = parts_of(k);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        float *c = (float *)((char *)ws + p * k->stride), *s = c + r, *sum = s + r;
        int64_t lo, hi;
        cpu_range(k->tokens, 1, p, parts, &lo, &hi);
        for (int64_t t = lo; t < hi; t++) {
            memset(sum, 0, (size_t)r * 4);
            for (int64_t h = 0; h < H; h++) {
                int64_t from = (t * H + h) * (n + r), to = (t * H + h) * (n + v);
                if (dk.p)
                    copy(dkv, to, dk, from, n);
                else
                    zero(dkv, to, n);
                if (dv.p)
                    copy(dkv, to + n, dv, (t * H + h) * v, v);
                else
                    zero(dkv, to + n, v);
                for (int64_t i = 0; dk.p && !k->few && i < r; i += W) {
                    int l = LANES(i, r);
                    st((arr){ sum, 0 }, i, l,
                       ld((arr){ sum, 0 }, i, l) + ld(dk, from + n + i, l));
                }
            }
            if (k->few && dk.p) {
                turn_exact(k, arr_at(dk, t * H * (n + r) + n), H, n + r, arr_at(dkr, t * r), pos[t],
                           -1);
                continue;
            }
            turn_angles(k->freq, r / 2, pos[t], k->factor, -1, 1, c, s);
            turn_pairs((arr){ sum, 0 }, arr_at(dkr, t * r), r, c, s);
        }
    }
    (void)err;
    return MR_OK;
}

/* ---- split, concat: rows of `nope` and `value` values --------------------------------------- */
static mr_status split_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                           void *ws, mr_err *err)
{
    SELF;
    arr x = in_arr(base, in, 0), a = out_arr(base, out, 0), b = out_arr(base, out, 1);
    int64_t n = k->nope, v = k->value;
    int parts = parts_of(k);
#pragma omp parallel for schedule(static) if (parts > 1)
    for (int64_t t = 0; t < k->tokens; t++) {
        copy(a, t * n, x, t * (n + v), n);
        copy(b, t * v, x, t * (n + v) + n, v);
    }
    (void)ws, (void)err;
    return MR_OK;
}

static mr_status concat_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                            void *ws, mr_err *err)
{
    SELF;
    arr a = in_arr(base, in, 0), b = in_arr(base, in, 1), x = out_arr(base, out, 0);
    int64_t n = k->nope, v = k->value;
    int parts = parts_of(k);
#pragma omp parallel for schedule(static) if (parts > 1)
    for (int64_t t = 0; t < k->tokens; t++) {
        if (a.p)
            copy(x, t * (n + v), a, t * n, n);
        else
            zero(x, t * (n + v), n);
        if (b.p)
            copy(x, t * (n + v) + n, b, t * v, v);
        else
            zero(x, t * (n + v) + n, v);
    }
    (void)ws, (void)err;
    return MR_OK;
}

/* ---- from types to kernels --------------------------------------------------------------- */
static void mla_release(struct kernel *base)
{
    free(((struct mla *)base)->freq);
}

static mr_status positions(struct mla *k, const mr_call *c, kernel_run *run, mr_err *err)
{
    const mr_attr *f = mr_attr_find(c, "inv_freq");
    k->rope = f && f->type == MR_A_F64S ? 2 * (int64_t)f->n : 0;
    k->exact = mr_attr_f(c, "factor", 1);
    k->factor = (float)k->exact;
    k->sign = mr_attr_i(c, "inverse", 0) ? -1.0f : 1.0f;
    if (!k->rope)
        return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER, "rotations without frequencies");
    k->freq = malloc(f->n * sizeof(double));
    if (!k->freq)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for %u frequencies", f->n);
    memcpy(k->freq, f->u.fs, f->n * sizeof(double));
    k->stride = cpu_round(3 * (uint64_t)k->rope * 4);
    k->base.workspace = k->stride * (uint64_t)k->base.threads;
    k->base.run = run;
    k->base.release = mla_release;
    return MR_OK;
}

static mr_status misfit(mr_err *err, const struct mla *k, int64_t width)
{
    return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER,
                   "%lld heads, each of %lld values, %lld rotated ones and a value of %lld, do not "
                   "fit rows of %lld", (long long)k->heads, (long long)k->nope, (long long)k->rope,
                   (long long)k->value, (long long)width);
}

static mr_status tail_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct mla *k = (struct mla *)base;
    int64_t D = mr_last(c->in[0]), C = mr_attr_i(c, "head_dim", 0);
    mr_status st = positions(k, c, tail_run, err);
    k->tokens = mr_rows(c->in[0]);
    k->heads = C > 0 ? D / C : 0;
    k->nope = C - k->rope;
    k->few = k->tokens * k->heads * k->rope <= 2 * TURN_FEW; /* angles are made anew for a head */
    base->flags |= MR_K_INPLACE0;
    return st ? st : C < 1 || D % C || k->nope < 0 ? misfit(err, k, D) : MR_OK;
}

static mr_status heads(struct mla *k, const mr_call *c, const mr_type *kv, kernel_run *run,
                       mr_err *err)
{
    mr_status st = positions(k, c, run, err);
    k->tokens = mr_rows(kv);
    k->heads = mr_attr_i(c, "heads", 0);
    k->few = k->tokens * k->rope <= 2 * TURN_FEW;
    k->nope = mr_attr_i(c, "nope_dim", 0);
    k->value = k->heads > 0 ? mr_last(kv) / k->heads - k->nope : 0;
    return st ? st
         : k->heads < 1 || mr_last(kv) % k->heads || k->value < 1 ? misfit(err, k, mr_last(kv))
                                                                  : MR_OK;
}

static mr_status kv_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    return heads((struct mla *)base, c, c->in[0], kv_run, err);
}

static mr_status kv_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    return heads((struct mla *)base, c, c->out[0], kv_bwd_run, err);
}

static mr_status halves(struct kernel *base, const mr_call *c, const mr_type *x, kernel_run *run)
{
    struct mla *k = (struct mla *)base;
    k->tokens = mr_rows(x);
    k->heads = 1;
    k->nope = mr_attr_i(c, "first", 0);
    k->value = mr_last(x) - k->nope;
    base->run = run;
    return MR_OK;
}

static mr_status split_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    (void)err;
    return halves(base, c, c->in[0], split_run);
}

static mr_status concat_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    (void)err;
    return halves(base, c, c->out[0], concat_run);
}

const struct op_row ISA_NAME(mla_rows)[] = {
    { "rope_tail", "xi>x", sizeof(struct mla), tail_prepare },
    { "mla_kv", "xxi>xx", sizeof(struct mla), kv_prepare },
    { "mla_kv.bwd", "XXi>xx", sizeof(struct mla), kv_bwd_prepare },
    { "split", "x>xx", sizeof(struct mla), split_prepare },
    { "concat", "XX>x", sizeof(struct mla), concat_prepare },
    { 0 },
};
