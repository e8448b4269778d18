/* SPDX-License-Identifier: Apache-2.0
 *
 * activation.c - swiglu (Shazeer 2020) and gelu (Hendrycks & Gimpel 2016), and their gradients:
 * one pass each, elements cut into parts at cache lines, any mix of f32 and bf16.
 */
#include "vec.h"

enum {
    GRAIN = 4096,   /* elements that are worth a thread */
    SMALL = 1 << 15 /* elements of f32 that are computed in double, as exact.c has products */
};

struct activation {
    struct kernel base;
    int64_t n;    /* elements, of a row if rows > 0                     */
    int64_t rows; /* swiglu without up: rows that hold gate and then up */
    char approx;  /* gelu: n, t (tanh), q (quick)                       */
    char small;   /* f32, and few: in double                            */
};

#define SELF const struct activation *k = (const struct activation *)base

/* ---- swiglu: y = silu(gate) up ------------------------------------------------------------
 * Without up, a row of operand `gate` is [gate, up], 2F wide; the two are cut apart here. */
static void swiglu_span(const struct activation *k, arr g, arr u, arr y, int64_t n)
{
    if (k->small)
        for (int64_t i = 0; i < n; i++) {
            double a = (double)((float *)g.p)[i];
            ((float *)y.p)[i] = (float)(a / (1 + exp(-a)) * (double)((float *)u.p)[i]);
        }
    for (int64_t i = 0; i < n && !k->small; i += W) {
        int l = LANES(i, n);
        vf a = ld(g, i, l);
        st(y, i, l, a * vsigmoid(a) * ld(u, i, l));
    }
}

static void swiglu_bwd_span(const struct activation *k, arr dy, arr g, arr u, arr dg, arr du,
                            int64_t n)
{
    if (k->small)
        for (int64_t i = 0; i < n; i++) {
            double a = (double)((float *)g.p)[i], b = (double)((float *)u.p)[i];
            double d = (double)((float *)dy.p)[i], s = 1 / (1 + exp(-a));
            ((float *)dg.p)[i] = (float)(d * b * s * (1 + a * (1 - s)));
            ((float *)du.p)[i] = (float)(d * a * s);
        }
    for (int64_t i = 0; i < n && !k->small; i += W) {
        int l = LANES(i, n);
        vf a = ld(g, i, l), d = ld(dy, i, l), b = ld(u, i, l), s = vsigmoid(a);
        st(dg, i, l, d * b * s * (1.0f + a * (1.0f - s)));
        st(du, i, l, d * a * s);
    }
}

static mr_status swiglu_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                            void *ws, mr_err *err)
{
    SELF;
    arr g = in_arr(base, in, 0), y = out_arr(base, out, 0);
    int fused = k->rows > 0;
    arr u = fused ? g : in_arr(base, in, 1);
    int64_t rows = fused ? k->rows : 1;
    int parts = cpu_parts(base, rows * k->n, GRAIN);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(fused ? rows : k->n, fused ? 1 : CPU_ALIGN, p, parts, &lo, &hi);
        if (!fused)
            swiglu_span(k, arr_at(g, lo), arr_at(u, lo), arr_at(y, lo), hi - lo);
        else
            for (int64_t r = lo; r < hi; r++)
                swiglu_span(k, arr_at(g, r * 2 * k->n), arr_at(g, (r * 2 + 1) * k->n),
                            arr_at(y, r * k->n), k->n);
    }
    (void)ws, (void)err;
    return MR_OK;
}

static mr_status swiglu_bwd_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                                void *ws, mr_err *err)
{
    SELF;
    arr dy = in_arr(base, in, 0), g = in_arr(base, in, 1), dg = out_arr(base, out, 0);
    int fused = k->rows > 0;
    arr u = fused ? g : in_arr(base, in, 2), du = fused ? dg : out_arr(base, out, 1);
    int64_t rows = fused ? k->rows : 1;
    int parts = cpu_parts(base, rows * k->n, GRAIN);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(fused ? rows : k->n, fused ? 1 : CPU_ALIGN, p, parts, &lo, &hi);
        if (!fused)
            swiglu_bwd_span(k, arr_at(dy, lo), arr_at(g, lo), arr_at(u, lo), arr_at(dg, lo),
                            arr_at(du, lo), hi - lo);
        else
            for (int64_t r = lo; r < hi; r++)
                swiglu_bwd_span(k, arr_at(dy, r * k->n), arr_at(g, r * 2 * k->n),
                                arr_at(g, (r * 2 + 1) * k->n), arr_at(dg, r * 2 * k->n),
                                arr_at(dg, (r * 2 + 1) * k->n), k->n);
    }
    (void)ws, (void)err;
    return MR_OK;
}

/* ---- gelu: x Phi(x); approx = tanh: x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)); approx = quick:
 * x sigmoid(1.702 x) ------------------------------------------------------------------------ */
#define SQRT_8_PI 1.5957691216057308f

INLINE vf gelu_exact(vf x)
{
    vf gauss;
    return 0.5f * x * (1.0f + verf(x * 0.70710678118654752f, &gauss));
}

INLINE vf gelu_exact_slope(vf x)
{
    vf gauss, e = verf(x * 0.70710678118654752f, &gauss);
    return 0.5f * (1.0f + e) + x * gauss * 0.39894228040143268f;
}

INLINE vf gelu_tanh(vf x)
{
    return x * vsigmoid(SQRT_8_PI * (x + 0.044715f * x * x * x));
}

INLINE vf gelu_tanh_slope(vf x)
{
    vf s = vsigmoid(SQRT_8_PI * (x + 0.044715f * x * x * x));
    return s + x * s * (1.0f - s) * SQRT_8_PI * (1.0f + 0.134145f * x * x);
}

INLINE vf gelu_quick(vf x)
{
    return x * vsigmoid(1.702f * x);
}

INLINE vf gelu_quick_slope(vf x)
{
    vf s = vsigmoid(1.702f * x);
    return s + 1.702f * x * s * (1.0f - s);
}

INLINE vf gelu_of(char approx, vf x)
{
    return approx == 't' ? gelu_tanh(x) : approx == 'q' ? gelu_quick(x) : gelu_exact(x);
}

INLINE vf gelu_slope(char approx, vf x)
{
    return approx == 't' ? gelu_tanh_slope(x)
         : approx == 'q' ? gelu_quick_slope(x)
                         : gelu_exact_slope(x);
}

/* returns y */
static double gelu_double(char approx, double x, double *slope)
{
    double inner = approx == 't' ? 1.5957691216057308 * (x + 0.044715 * x * x * x) : 1.702 * x;
    double up = approx == 't' ? 1.5957691216057308 * (1 + 0.134145 * x * x) : 1.702;
    double s = 1 / (1 + exp(-inner));
    if (approx == 't' || approx == 'q') {
        *slope = s + x * s * (1 - s) * up;
        return x * s;
    }
    s = 0.5 * erfc(-x * 0.70710678118654752440);
    *slope = s + x * exp(-0.5 * x * x) * 0.39894228040143267794;
    return x * s;
}

static void gelu_small(const struct activation *k, const float *dy, const float *x, float *y)
{
    for (int64_t i = 0; i < k->n; i++) {
        double slope, v = gelu_double(k->approx, (double)x[i], &slope);
        y[i] = (float)(dy ? (double)dy[i] * slope : v);
    }
}

static mr_status gelu_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                          mr_err *err)
{
    SELF;
    arr x = in_arr(base, in, 0), y = out_arr(base, out, 0);
    int parts = cpu_parts(base, k->n, GRAIN);
    if (k->small) {
        gelu_small(k, NULL, x.p, y.p);
        return MR_OK;
    }
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(k->n, CPU_ALIGN, p, parts, &lo, &hi);
        for (int64_t i = lo; i < hi; i += W) {
            int l = LANES(i, hi);
            vf v = ld(x, i, l);
            st(y, i, l, gelu_of(k->approx, v));
        }
    }
    (void)ws, (void)err;
    return MR_OK;
}

static mr_status gelu_bwd_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                              void *ws, mr_err *err)
{
    SELF;
    arr dy = in_arr(base, in, 0), x = in_arr(base, in, 1), dx = out_arr(base, out, 0);
    int parts = cpu_parts(base, k->n, GRAIN);
    if (k->small) {
        gelu_small(k, dy.p, x.p, dx.p);
        return MR_OK;
    }
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(k->n, CPU_ALIGN, p, parts, &lo, &hi);
        for (int64_t i = lo; i < hi; i += W) {
            int l = LANES(i, hi);
            vf v = ld(x, i, l);
            st(dx, i, l, ld(dy, i, l) * gelu_slope(k->approx, v));
        }
    }
    (void)ws, (void)err;
    return MR_OK;
}

/* ---- from types to kernels ---------------------------------------------------------------- */
static void mark_small(struct activation *k, const mr_call *c, int64_t n)
{
    k->small = n <= SMALL;
    for (uint32_t i = 0; i < c->n_in; i++)
        k->small &= !c->in[i] || !k->base.in_bf[i];
    for (uint32_t i = 0; i < c->n_out; i++)
        k->small &= !c->out[i] || !k->base.out_bf[i];
}

/* `gate` is operand g; a missing operand g + 1 means that its rows hold both halves. */
static void gated(struct activation *k, const mr_call *c, uint32_t g)
{
    int fused = c->n_in <= g + 1 || !c->in[g + 1];
    k->n = fused ? mr_last(c->in[g]) / 2 : mr_numel(c->in[g]);
    k->rows = fused ? mr_rows(c->in[g]) : 0;
    k->base.flags |= fused ? 0 : MR_K_INPLACE0;
    mark_small(k, c, k->n * (fused ? k->rows : 1));
}

static mr_status swiglu_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    (void)err;
    gated((struct activation *)base, c, 0);
    base->run = swiglu_run;
    return MR_OK;
}

static mr_status swiglu_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    (void)err;
    gated((struct activation *)base, c, 1);
    base->run = swiglu_bwd_run;
    return MR_OK;
}

static mr_status gelu_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct activation *k = (struct activation *)base;
    (void)err;
    k->n = mr_numel(c->in[0]);
    k->approx = *mr_attr_s(c, "approx", "none");
    mark_small(k, c, k->n);
    base->flags |= MR_K_INPLACE0;
    base->run = c->n_in > 1 ? gelu_bwd_run : gelu_run;
    return MR_OK;
}

const struct op_row ISA_NAME(activation_rows)[] = {
    { "swiglu", "xX>x", sizeof(struct activation), swiglu_prepare },
    { "swiglu.bwd", "xxX>xX", sizeof(struct activation), swiglu_bwd_prepare },
    { "gelu", "x>x", sizeof(struct activation), gelu_prepare },
    { "gelu.bwd", "xx>x", sizeof(struct activation), gelu_prepare },
    { 0 },
};
