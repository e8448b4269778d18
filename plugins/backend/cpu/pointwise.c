/* SPDX-License-Identifier: Apache-2.0
 *
 * pointwise.c - ops that take each element by itself: add, cast, store, accumulate,
 * attn_temperature; and sum_rows. All are bound by memory: one pass, any mix of f32 and bf16.
 * Elements are cut into parts at cache lines.
 */
#include "vec.h"

enum { GRAIN = 16384 }; /* elements that are worth a thread */

struct pointwise {
    struct kernel base;
    int64_t n, rows, width; /* elements of operand 0, as rows by width                    */
    double a, b;            /* attn_temperature: floor_scale, attn_scale; store: has ok?   */
};

#define SELF const struct pointwise *k = (const struct pointwise *)base

/* ---- add, cast, store, accumulate ------------------------------------------------------ */
static mr_status add_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                         mr_err *err)
{
    SELF;
    arr a = in_arr(base, in, 0), b = in_arr(base, in, 1), y = out_arr(base, out, 0);
    int parts = cpu_parts(base, k->n, GRAIN);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(k->n, CPU_ALIGN, p, parts, &lo, &hi);
        for (int64_t i = lo; i < hi; i += W) {
            int l = LANES(i, hi);
            st(y, i, l, ld(a, i, l) + ld(b, i, l));
        }
    }
    (void)ws, (void)err;
    return MR_OK;
}

static void copy_span(arr y, arr x, int64_t lo, int64_t hi)
{
    if (x.bf == y.bf) {
        size_t e = x.bf ? 2 : 4;
        memmove((char *)y.p + lo * e, (char *)x.p + lo * e, (size_t)(hi - lo) * e);
        return;
    }
    for (int64_t i = lo; i < hi; i += W) {
        int l = LANES(i, hi);
        st(y, i, l, ld(x, i, l));
    }
}

static void copy_all(const struct pointwise *k, arr y, arr x)
{
    int parts = cpu_parts(&k->base, k->n, GRAIN);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(k->n, CPU_ALIGN, p, parts, &lo, &hi);
        copy_span(y, x, lo, hi);
    }
}

static mr_status cast_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                          mr_err *err)
{
    SELF;
    copy_all(k, out_arr(base, out, 0), in_arr(base, in, 0));
    (void)ws, (void)err;
    return MR_OK;
}

static mr_status cast_int_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                              void *ws, mr_err *err)
{
    SELF;
    const int32_t *x = in[0].data;
    arr y = out_arr(base, out, 0);
    int parts = cpu_parts(base, k->n, GRAIN);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(k->n, CPU_ALIGN, p, parts, &lo, &hi);
        for (int64_t i = lo; i < hi; i++)
            put(y, i, (float)x[i]);
    }
    (void)ws, (void)err;
    return MR_OK;
}

static mr_status store_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                           mr_err *err)
{
    SELF;
    const float *ok = k->a != 0 ? in[2].data : NULL;
    if (!ok || *ok != 0)
        copy_all(k, in_arr(base, in, 1), in_arr(base, in, 0));
    (void)out, (void)ws, (void)err;
    return MR_OK;
}

static mr_status accumulate_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                                void *ws, mr_err *err)
{
    SELF;
    arr x = in_arr(base, in, 0), y = in_arr(base, in, 1);
    int parts = cpu_parts(base, k->n, GRAIN);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(k->n, CPU_ALIGN, p, parts, &lo, &hi);
        for (int64_t i = lo; i < hi; i += W) {
            int l = LANES(i, hi);
            st(y, i, l, ld(y, i, l) + ld(x, i, l));
        }
    }
    (void)out, (void)ws, (void)err;
    return MR_OK;
}

/* acc[d] += sum over rows: a part takes columns, so the order of a sum is the rows' own. */
static mr_status sum_rows_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                              void *ws, mr_err *err)
{
    SELF;
    arr x = in_arr(base, in, 0), acc = in_arr(base, in, 1);
    int parts = cpu_parts(base, k->rows * k->width, GRAIN);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(k->width, CPU_ALIGN / 4, p, parts, &lo, &hi);
        for (int64_t i = lo; i < hi; i += 4 * W) {
            vf s[4] = { 0 };
            for (int64_t r = 0; r < k->rows; r++)
                for (int v = 0; v < 4 && i + v * W < hi; v++)
                    s[v] += ld(x, r * k->width + i + v * W, LANES(i + v * W, hi));
            for (int v = 0; v < 4 && i + v * W < hi; v++) {
                int l = LANES(i + v * W, hi);
                st(acc, i + v * W, l, ld(acc, i + v * W, l) + s[v]);
            }
        }
    }
    (void)out, (void)ws, (void)err;
    return MR_OK;
}

/* ---- attn_temperature: y = x (1 + attn_scale ln(1 + floor((pos + 1) / floor_scale))) ---- */
static mr_status temperature_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                                 void *ws, mr_err *err)
{
    SELF;
    arr x = in_arr(base, in, 0), y = out_arr(base, out, 0);
    const int32_t *pos = in[1].data;
    int parts = cpu_parts(base, k->rows * k->width, GRAIN);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(k->rows, 1, p, parts, &lo, &hi);
        for (int64_t r = lo; r < hi; r++) {
            float s = (float)(1 + k->b * log(1 + floor((pos[r] + 1.0) / k->a)));
            int64_t end = (r + 1) * k->width;
            for (int64_t i = r * k->width; i < end; i += W) {
                int l = LANES(i, end);
                st(y, i, l, ld(x, i, l) * s);
            }
        }
    }
    (void)ws, (void)err;
    return MR_OK;
}

/* ---- from types to kernels ---------------------------------------------------------------- */
static mr_status flat(struct kernel *base, const mr_call *c, kernel_run *run, uint32_t flags)
{
    struct pointwise *k = (struct pointwise *)base;
    k->n = mr_numel(c->in[0]);
    k->rows = mr_rows(c->in[0]);
    k->width = mr_last(c->in[0]);
    base->run = run;
    base->flags |= flags;
    return MR_OK;
}

static mr_status add_prepare(struct kernel *k, const mr_call *c, mr_err *e)
{
    (void)e;
    return flat(k, c, add_run, k->in_bf[0] == k->out_bf[0] ? MR_K_INPLACE0 : 0);
}

static mr_status cast_prepare(struct kernel *k, const mr_call *c, mr_err *e)
{
    (void)e;
    return flat(k, c, mr_is(c->in[0], "i32") ? cast_int_run : cast_run, 0);
}

static mr_status store_prepare(struct kernel *k, const mr_call *c, mr_err *e)
{
    (void)e;
    ((struct pointwise *)k)->a = c->n_in > 2 && c->in[2];
    return flat(k, c, store_run, 0);
}

static mr_status accumulate_prepare(struct kernel *k, const mr_call *c, mr_err *e)
{
    (void)e;
    return flat(k, c, accumulate_run, 0);
}

static mr_status sum_rows_prepare(struct kernel *k, const mr_call *c, mr_err *e)
{
    (void)e;
    return flat(k, c, sum_rows_run, 0);
}

static mr_status temperature_prepare(struct kernel *k, const mr_call *c, mr_err *e)
{
    struct pointwise *p = (struct pointwise *)k;
    (void)e;
    p->a = mr_attr_f(c, "floor_scale", 8192);
    p->b = mr_attr_f(c, "attn_scale", 0.1);
    return flat(k, c, temperature_run, MR_K_INPLACE0);
}

const struct op_row ISA_NAME(pointwise_rows)[] = {
    { "add", "xx>x", sizeof(struct pointwise), add_prepare },
    { "cast", "n>x", sizeof(struct pointwise), cast_prepare },
    { "store", "xxF>", sizeof(struct pointwise), store_prepare },
    { "accumulate", "xf>", sizeof(struct pointwise), accumulate_prepare },
    { "sum_rows", "xf>", sizeof(struct pointwise), sum_rows_prepare },
    { "attn_temperature", "xi>x", sizeof(struct pointwise), temperature_prepare },
    { 0 },
};
