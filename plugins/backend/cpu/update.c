/* SPDX-License-Identifier: Apache-2.0
 *
 * update.c - the optimizer's side: sumsq, clip_scale, adamw, sgd. An update is one pass (adamw
 * reads 16 bytes a parameter and writes 12, 14 with weights; 16 and 12 with split masters), in
 * f32 and in the very order of the catalogue's definition, each operation rounded: no fused
 * multiply-add here. sumsq adds blocks of a fixed size in their order, in double, so its result
 * does not depend on the thread count either.
 */
#include "masters.h"

enum { BLOCK = 16384, ADAMW_WEIGHTS = 9, SGD_WEIGHTS = 7 /* operands */ };

struct update {
    struct kernel base;
    int64_t n;
    double a, b, eps; /* adamw: beta1, beta2; sgd: momentum, nesterov; clip_scale: max_norm */
    int has_momentum;
    struct master_kinds kinds;
};

#define SELF const struct update *k = (const struct update *)base

static double sum_squares(arr x, int64_t n)
{
    double s[W] = { 0 };
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        vf v = ld(x, i, W);
        for (int l = 0; l < W; l++)
            s[l] += (double)v[l] * (double)v[l];
    }
    for (; i < n; i++)
        s[0] += (double)get(x, i) * (double)get(x, i);
    for (int h = W / 2; h; h /= 2)
        for (int l = 0; l < h; l++)
            s[l] += s[l + h];
    return s[0];
}

static mr_status sumsq_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                           mr_err *err)
{
    SELF;
    arr x = in_arr(base, in, 0);
    double *sums = ws, sum = 0;
    int64_t blocks = (k->n + BLOCK - 1) / BLOCK;
    int parts = cpu_parts(base, blocks, 2);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(blocks, 1, p, parts, &lo, &hi);
        for (int64_t b = lo; b < hi; b++)
            sums[b] = sum_squares(arr_at(x, b * BLOCK),
                                  k->n - b * BLOCK < BLOCK ? k->n - b * BLOCK : BLOCK);
    }
    for (int64_t b = 0; b < blocks; b++)
        sum += sums[b];
    float *acc = in[1].data;
    *acc = (float)(*acc + sum);
    (void)out, (void)err;
    return MR_OK;
}

static mr_status clip_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                          mr_err *err)
{
    SELF;
    float norm = sqrtf(*(const float *)in[0].data), max = (float)k->a;
    int ok = isfinite(norm) && *(const float *)in[3].data != 0;
    *(float *)in[1].data = !ok ? 0 : max > 0 ? fminf(1, max / (norm + 1e-6f)) : 1;
    *(float *)in[2].data = norm;
    *(float *)in[3].data = (float)ok;
    (void)out, (void)ws, (void)err;
    return MR_OK;
}

/* ---- updates -------------------------------------------------------------------------------- */
static mr_status adamw_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                           mr_err *err)
{
    SELF;
    masters w = masters_of(k->kinds, in, ADAMW_WEIGHTS);
    arr m = in_arr(base, in, 1), v = in_arr(base, in, 2), g = in_arr(base, in, 3);
    float lr = *(const float *)in[4].data, decay = *(const float *)in[5].data;
    float step = *(const float *)in[6].data, scale = *(const float *)in[7].data;
    float b1 = (float)k->a, a1 = (float)(1 - k->a), c1 = (float)(1 - pow(k->a, step));
    float b2 = (float)k->b, a2 = (float)(1 - k->b), c2 = (float)(1 - pow(k->b, step));
    float eps = (float)k->eps;
    int parts = cpu_parts(base, k->n, BLOCK);
    if (*(const float *)in[8].data == 0)
        return MR_OK;
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(k->n, CPU_ALIGN, p, parts, &lo, &hi);
        for (int64_t i = lo; i < hi; i += W) {
            int l = LANES(i, hi);
            vf d = ld(g, i, l) * scale, x = master_ld(w, i, l);
            vf a = b1 * ld(m, i, l) + a1 * d;
            vf b = b2 * ld(v, i, l) + a2 * d * d;
            vf update = (a / c1) / (vsqrt(b / c2) + eps) + decay * x;
            st(m, i, l, a);
            st(v, i, l, b);
            master_st(w, i, l, x - lr * update);
        }
    }
    (void)out, (void)ws, (void)err;
    return MR_OK;
}

static mr_status sgd_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                         mr_err *err)
{
    SELF;
    masters w = masters_of(k->kinds, in, SGD_WEIGHTS);
    arr m = k->has_momentum ? in_arr(base, in, 1) : (arr){ 0 }, g = in_arr(base, in, 2);
    float lr = *(const float *)in[3].data, decay = *(const float *)in[4].data;
    float scale = *(const float *)in[5].data, mu = (float)k->a;
    int parts = cpu_parts(base, k->n, BLOCK);
    if (*(const float *)in[6].data == 0)
        return MR_OK;
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(k->n, CPU_ALIGN, p, parts, &lo, &hi);
        for (int64_t i = lo; i < hi; i += W) {
            int l = LANES(i, hi);
            vf x = master_ld(w, i, l), d = ld(g, i, l) * scale + decay * x;
            if (k->has_momentum) {
                vf b = mu * ld(m, i, l) + d;
                st(m, i, l, b);
                d = k->b != 0 ? d + mu * b : b;
            }
            master_st(w, i, l, x - lr * d);
        }
    }
    (void)out, (void)ws, (void)err;
    return MR_OK;
}

/* ---- from types to kernels ---------------------------------------------------------------- */
static mr_status sumsq_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct update *k = (struct update *)base;
    k->n = mr_numel(c->in[0]);
    base->workspace = (uint64_t)(k->n / BLOCK + 1) * sizeof(double);
    base->run = sumsq_run;
    (void)err;
    return MR_OK;
}

static mr_status clip_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    ((struct update *)base)->a = mr_attr_f(c, "max_norm", 0);
    base->run = clip_run;
    (void)err;
    return MR_OK;
}

static mr_status adamw_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct update *k = (struct update *)base;
    k->n = mr_numel(c->in[0]);
    k->a = mr_attr_f(c, "beta1", 0.9);
    k->b = mr_attr_f(c, "beta2", 0.95);
    k->eps = mr_attr_f(c, "eps", 1e-8);
    k->kinds = master_kinds_of(c, ADAMW_WEIGHTS);
    base->run = adamw_run;
    (void)err;
    return MR_OK;
}

static mr_status sgd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct update *k = (struct update *)base;
    k->n = mr_numel(c->in[0]);
    k->a = mr_attr_f(c, "momentum", 0);
    k->b = (double)mr_attr_i(c, "nesterov", 0);
    k->has_momentum = c->in[1] != NULL;
    k->kinds = master_kinds_of(c, SGD_WEIGHTS);
    base->run = sgd_run;
    (void)err;
    return MR_OK;
}

const struct op_row ISA_NAME(update_rows)[] = {
    { "sumsq", "xf>", sizeof(struct update), sumsq_prepare },
    { "clip_scale", "ffff>", sizeof(struct update), clip_prepare },
    { "adamw", "mffffffffB>", sizeof(struct update), adamw_prepare },
    { "sgd", "mFfffffB>", sizeof(struct update), sgd_prepare },
    { 0 },
};
