/* SPDX-License-Identifier: Apache-2.0
 *
 * norm.c - rmsnorm (Zhang & Sennrich 2019), layernorm (Ba et al. 2016) and their gradients.
 * A row is read twice, the second time from the cache. Weight gradients are summed per part
 * over its rows in f32, then over the parts in their order.
 */
#include "vec.h"

enum { GRAIN = 8192 };

struct norm {
    struct kernel base;
    int64_t rows, n; /* rows of n values that are normalised together */
    float eps;
    int has_w, has_bias, has_dw, has_dbias, parts;
};

#define SELF const struct norm *k = (const struct norm *)base

/* (sum of a_i b_i) over a row, four sums of lanes so that additions do not wait */
INLINE float dot(arr a, arr b, int64_t n)
{
    vf s[4] = { 0 };
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W)
        for (int v = 0; v < 4; v++)
            s[v] = vfma(ld(a, i + v * W, W), ld(b, i + v * W, W), s[v]);
    for (; i < n; i += W)
        s[0] = vfma(ld(a, i, LANES(i, n)), ld(b, i, LANES(i, n)), s[0]);
    return vsum((s[0] + s[1]) + (s[2] + s[3]));
}

enum { SHORT = 1024, FEW = 1 << 18 }; /* values of a row, and of all, that are worth doubles */

/* 1 / sqrt(mean square + eps), rounded once for f32: a whole row shares its error */
INLINE double rstd_of(arr x, int64_t n, float eps, int exactly)
{
    double s = 0;
    if (!exactly)
        return (double)(1.0f / sqrtf(dot(x, x, n) / (float)n + eps));
    const float *v = x.p;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++)
        s += (double)v[i] * (double)v[i];
    return 1.0 / sqrt(s / (double)n + (double)eps);
}

/* y = x s w of short rows of f32, rounded once; w may be absent */
INLINE void scale_short(const float *x, double s, const float *w, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = (float)((double)x[i] * s * (w ? (double)w[i] : 1));
}

static mr_status rms_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                         mr_err *err)
{
    SELF;
    arr y = out_arr(base, out, 0), w = k->has_w ? in_arr(base, in, 1) : (arr){ 0 };
    float *rstd = out[1].data;
    int exactly = k->n > 0 && k->n <= SHORT && k->rows <= FEW / k->n && !base->in_bf[0] &&
                  !y.bf && !w.bf;
#pragma omp parallel for schedule(static, 1) if (k->parts > 1)
    for (int p = 0; p < k->parts; p++) {
        int64_t lo, hi, n = k->n;
        cpu_range(k->rows, 1, p, k->parts, &lo, &hi);
        for (int64_t r = lo; r < hi; r++) {
            arr x = arr_at(in_arr(base, in, 0), r * n), o = arr_at(y, r * n);
            double exact = rstd_of(x, n, k->eps, exactly);
            float s = rstd[r] = (float)exact;
            if (exactly) {
                scale_short(x.p, exact, w.p, o.p, n);
                continue;
            }
            for (int64_t i = 0; i < n; i += W) {
                int l = LANES(i, n);
                vf v = ld(x, i, l) * s;
                if (k->has_w)
                    v = (x.bf ? vround_bf(v) : v) * ld(w, i, l);
                st(o, i, l, v);
            }
        }
    }
    (void)ws, (void)err;
    return MR_OK;
}

/* adds the parts' sums [parts, n] to acc [n], in order */
static void add_parts(arr acc, const float *part, int parts, int64_t n, int64_t stride)
{
    for (int64_t i = 0; i < n; i += W) {
        int l = LANES(i, n);
        vf s = ld(acc, i, l);
        for (int p = 0; p < parts; p++)
            s += ld((arr){ (void *)(uintptr_t)(part + p * stride), 0 }, i, l);
        st(acc, i, l, s);
    }
}

/* dx = rstd (g - xhat mean(g xhat)) with g = dy w, xhat = x rstd; dw += dy xhat */
static mr_status rms_bwd_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                             void *ws, mr_err *err)
{
    SELF;
    arr w = k->has_w ? in_arr(base, in, 2) : (arr){ 0 };
    const float *rstd = in[3].data;
    int64_t stride = (int64_t)cpu_round((uint64_t)k->n * 4) / 4;
    float *partial = ws;
#pragma omp parallel for schedule(static, 1) if (k->parts > 1)
    for (int p = 0; p < k->parts; p++) {
        int64_t lo, hi, n = k->n;
        float *sum = partial + p * stride;
        arr dw = { sum, 0 };
        if (k->has_dw)
            memset(sum, 0, (size_t)n * 4);
        cpu_range(k->rows, 1, p, k->parts, &lo, &hi);
        for (int64_t r = lo; r < hi; r++) {
            arr dy = arr_at(in_arr(base, in, 0), r * n), x = arr_at(in_arr(base, in, 1), r * n);
            arr dx = arr_at(out_arr(base, out, 0), r * n);
            vf acc = { 0 };
            float s = rstd[r];
            for (int64_t i = 0; i < n; i += W) {
                int l = LANES(i, n);
                vf d = ld(dy, i, l), h = ld(x, i, l) * s;
                if (k->has_dw)
                    st(dw, i, l, vfma(d, h, ld(dw, i, l)));
                acc = vfma(k->has_w ? d * ld(w, i, l) : d, h, acc);
            }
            float mean = vsum(acc) / (float)n;
            for (int64_t i = 0; i < n; i += W) {
                int l = LANES(i, n);
                vf d = ld(dy, i, l), h = ld(x, i, l) * s;
                if (k->has_w)
                    d *= ld(w, i, l);
                st(dx, i, l, s * (d - h * mean));
            }
        }
    }
    if (k->has_dw)
        add_parts(in_arr(base, in, 4), partial, k->parts, k->n, stride);
    (void)err;
    return MR_OK;
}

/* Of a short row of f32: mean and 1 / deviation, summed in double. */
INLINE void moments(const float *x, int64_t n, float eps, double *mean, double *rstd)
{
    double s = 0, q = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++)
        s += (double)x[i];
    s /= (double)n;
#pragma omp simd reduction(+ : q)
    for (int64_t i = 0; i < n; i++)
        q += ((double)x[i] - s) * ((double)x[i] - s);
    *mean = s;
    *rstd = 1 / sqrt(q / (double)n + (double)eps);
}

/* Are these operands f32, and rows short enough for double? */
INLINE int is_short(const struct norm *k, arr a, arr b, arr c, arr d)
{
    return k->n <= SHORT && !a.bf && !b.bf && !c.bf && !d.bf;
}

static void layer_short(const struct norm *k, const float *x, const float *w, const float *bias,
                        float *y, float *mean, float *rstd)
{
    double m, s;
    moments(x, k->n, k->eps, &m, &s);
    for (int64_t i = 0; i < k->n; i++)
        y[i] = (float)(((double)x[i] - m) * s * (double)w[i] + (bias ? (double)bias[i] : 0));
    *mean = (float)m;
    *rstd = (float)s;
}

static mr_status layer_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                           mr_err *err)
{
    SELF;
    arr w = in_arr(base, in, 1), bias = k->has_bias ? in_arr(base, in, 2) : (arr){ 0 };
    float *mean = out[1].data, *rstd = out[2].data;
#pragma omp parallel for schedule(static, 1) if (k->parts > 1)
    for (int p = 0; p < k->parts; p++) {
        int64_t lo, hi, n = k->n;
        cpu_range(k->rows, 1, p, k->parts, &lo, &hi);
        for (int64_t r = lo; r < hi; r++) {
            arr x = arr_at(in_arr(base, in, 0), r * n), y = arr_at(out_arr(base, out, 0), r * n);
            vf acc = { 0 }, sq = { 0 };
            if (is_short(k, x, y, w, bias)) {
                layer_short(k, x.p, w.p, bias.p, y.p, mean + r, rstd + r);
                continue;
            }
            for (int64_t i = 0; i < n; i += W)
                acc += ld(x, i, LANES(i, n));
            float m = vsum(acc) / (float)n;
            for (int64_t i = 0; i < n; i += W) {
                int l = LANES(i, n);
                vf d = ld(x, i, l) - m;
                if (l < W)
                    d = vsel((vi)(viota() < l), d, (vf){ 0 });
                sq = vfma(d, d, sq);
            }
            float s = 1.0f / sqrtf(vsum(sq) / (float)n + k->eps);
            mean[r] = m;
            rstd[r] = s;
            for (int64_t i = 0; i < n; i += W) {
                int l = LANES(i, n);
                vf v = (ld(x, i, l) - m) * s * ld(w, i, l);
                st(y, i, l, k->has_bias ? v + ld(bias, i, l) : v);
            }
        }
    }
    (void)ws, (void)err;
    return MR_OK;
}

/* dx = rstd (g - mean(g) - xhat mean(g xhat)), g = dy w; dw += dy xhat; dbias += dy.
 * One short row; dw and db (or NULL) are added to */
static void layer_short_bwd(const struct norm *k, const float *dy, const float *x, const float *w,
                            float *dx, float *dw, float *db, double rstd, double mean)
{
    double a = 0, b = 0;
    int64_t n = k->n;
    for (int64_t i = 0; i < n; i++) {
        double h = ((double)x[i] - mean) * rstd, g = (double)dy[i] * (double)w[i];
        a += g;
        b += g * h;
        dw[i] += (float)((double)dy[i] * h);
        if (db)
            db[i] += dy[i];
    }
    a /= (double)n;
    b /= (double)n;
    for (int64_t i = 0; i < n; i++) {
        double h = ((double)x[i] - mean) * rstd;
        dx[i] = (float)(rstd * ((double)dy[i] * (double)w[i] - a - h * b));
    }
}

static mr_status layer_bwd_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                               void *ws, mr_err *err)
{
    SELF;
    arr w = in_arr(base, in, 2);
    const float *mean = in[3].data, *rstd = in[4].data;
    int64_t stride = (int64_t)cpu_round((uint64_t)k->n * 4) / 4;
    float *partial = ws;
#pragma omp parallel for schedule(static, 1) if (k->parts > 1)
    for (int p = 0; p < k->parts; p++) {
        int64_t lo, hi, n = k->n;
        float *sum = partial + 2 * p * stride;
        arr dw = { sum, 0 }, db = { sum + stride, 0 };
        memset(sum, 0, (size_t)stride * 8);
        cpu_range(k->rows, 1, p, k->parts, &lo, &hi);
        for (int64_t r = lo; r < hi; r++) {
            arr dy = arr_at(in_arr(base, in, 0), r * n), x = arr_at(in_arr(base, in, 1), r * n);
            arr dx = arr_at(out_arr(base, out, 0), r * n);
            vf a = { 0 }, b = { 0 };
            float m = mean[r], s = rstd[r];
            if (is_short(k, x, dy, w, dx)) {
                layer_short_bwd(k, dy.p, x.p, w.p, dx.p, sum, k->has_dbias ? sum + stride : NULL,
                                (double)s, (double)m);
                continue;
            }
            for (int64_t i = 0; i < n; i += W) {
                int l = LANES(i, n);
                vf d = ld(dy, i, l), h = (ld(x, i, l) - m) * s, g = d * ld(w, i, l);
                st(dw, i, l, vfma(d, h, ld(dw, i, l)));
                if (k->has_dbias)
                    st(db, i, l, ld(db, i, l) + d);
                a += g;
                b = vfma(g, h, b);
            }
            float ma = vsum(a) / (float)n, mb = vsum(b) / (float)n;
            for (int64_t i = 0; i < n; i += W) {
                int l = LANES(i, n);
                vf h = (ld(x, i, l) - m) * s, g = ld(dy, i, l) * ld(w, i, l);
                st(dx, i, l, s * (g - ma - h * mb));
            }
        }
    }
    add_parts(in_arr(base, in, 5), partial, k->parts, k->n, 2 * stride);
    if (k->has_dbias)
        add_parts(in_arr(base, in, 6), partial + stride, k->parts, k->n, 2 * stride);
    (void)err;
    return MR_OK;
}

/* ---- from types to kernels ---------------------------------------------------------------- */
static int has(const mr_call *c, uint32_t i)
{
    return i < c->n_in && c->in[i];
}

static mr_status shape(struct norm *k, const mr_call *c, uint32_t x, mr_err *err)
{
    int64_t group = mr_attr_i(c, "group", 0), d = mr_last(c->in[x]);
    if (group < 0 || (group && d % group))
        return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER,
                       "group %lld does not divide the row width %lld", (long long)group,
                       (long long)d);
    k->n = group ? group : d;
    k->rows = k->n ? mr_numel(c->in[x]) / k->n : 0;
    k->eps = (float)mr_attr_f(c, "eps", 1e-5);
    k->parts = cpu_parts(&k->base, k->rows * k->n, GRAIN);
    if (k->parts > k->rows)
        k->parts = k->rows > 0 ? (int)k->rows : 1;
    return MR_OK;
}

static mr_status rms_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct norm *k = (struct norm *)base;
    base->run = rms_run;
    base->flags |= MR_K_INPLACE0;
    k->has_w = has(c, 1);
    return shape(k, c, 0, err);
}

static mr_status rms_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct norm *k = (struct norm *)base;
    mr_status st = shape(k, c, 1, err);
    base->run = rms_bwd_run;
    base->flags |= MR_K_INPLACE0;
    k->has_w = has(c, 2);
    k->has_dw = has(c, 4);
    if (k->has_dw)
        base->workspace = cpu_round((uint64_t)k->n * 4) * (uint64_t)k->parts;
    return st;
}

static mr_status layer_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct norm *k = (struct norm *)base;
    base->run = layer_run;
    base->flags |= MR_K_INPLACE0;
    k->has_bias = has(c, 2);
    return shape(k, c, 0, err);
}

static mr_status layer_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct norm *k = (struct norm *)base;
    mr_status st = shape(k, c, 1, err);
    base->run = layer_bwd_run;
    base->flags |= MR_K_INPLACE0;
    k->has_dbias = has(c, 6);
    base->workspace = 2 * cpu_round((uint64_t)k->n * 4) * (uint64_t)k->parts;
    return st;
}

const struct op_row ISA_NAME(norm_rows)[] = {
    { "rmsnorm", "xX>xf", sizeof(struct norm), rms_prepare },
    { "rmsnorm.bwd", "xxXfF>x", sizeof(struct norm), rms_bwd_prepare },
    { "layernorm", "xxX>xff", sizeof(struct norm), layer_prepare },
    { "layernorm.bwd", "xxxfffF>x", sizeof(struct norm), layer_bwd_prepare },
    { 0 },
};
