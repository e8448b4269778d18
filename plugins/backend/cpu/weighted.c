/* SPDX-License-Identifier: Apache-2.0
 *
 * weighted.c - swiglu and squared ReLU of routed rows times the row's probability, and their
 * gradients (see core/ops/weighted_act.c): one pass a row, a row made by one thread.
 */
#include "vec.h"

enum { GRAIN = 4096 }; /* elements that are worth a thread */

struct weighted {
    struct kernel base;
    int64_t rows, width, stride, up_at; /* width: F; up lies up_at behind gate, rows at stride */
    int fused;
};

#define SELF const struct weighted *k = (const struct weighted *)base

/* for each row r, parts of them side by side */
#define EACH_ROW(r) \
    int parts = cpu_parts(base, k->rows * k->width, GRAIN); \
    _Pragma("omp parallel for schedule(static, 1) if (parts > 1)") \
    for (int part = 0; part < parts; part++) \
        for (int64_t r = k->rows * part / parts; r < k->rows * (part + 1) / parts; r++)

/* ---- weighted_swiglu ------------------------------------------------------------------------ */
static mr_status swiglu_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                            void *ws, mr_err *err)
{
    SELF;
    arr gate = in_arr(base, in, 0), up = k->fused ? gate : in_arr(base, in, 2);
    arr y = out_arr(base, out, 0);
    const float *p = in[1].data;
    EACH_ROW(r)
    {
        arr g = arr_at(gate, r * k->stride), u = arr_at(up, r * k->stride + k->up_at);
        for (int64_t i = 0; i < k->width; i += W) {
            int l = LANES(i, k->width);
            vf a = ld(g, i, l);
            st(y, r * k->width + i, l, a * vsigmoid(a) * ld(u, i, l) * p[r]);
        }
    }
    (void)ws, (void)err;
    return MR_OK;
}

static mr_status swiglu_bwd_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                                void *ws, mr_err *err)
{
    SELF;
    arr dy = in_arr(base, in, 0), gate = in_arr(base, in, 1);
    arr up = k->fused ? gate : in_arr(base, in, 3), dgate = out_arr(base, out, 0);
    arr dup = k->fused ? dgate : out_arr(base, out, 2);
    const float *p = in[2].data;
    float *dp = out[1].data;
    EACH_ROW(r)
    {
        int64_t at = r * k->stride;
        vf sum = { 0 };
        for (int64_t i = 0; i < k->width; i += W) {
            int l = LANES(i, k->width);
            vf d = ld(dy, r * k->width + i, l), a = ld(gate, at + i, l);
            vf b = ld(up, at + k->up_at + i, l), s = vsigmoid(a), by = d * p[r];
            sum += d * a * s * b;
            st(dgate, at + i, l, by * b * s * (1.0f + a * (1.0f - s)));
            st(dup, at + k->up_at + i, l, by * a * s);
        }
        dp[r] = vsum(sum);
    }
    (void)ws, (void)err;
    return MR_OK;
}

/* ---- weighted_srelu ------------------------------------------------------------------------- */
INLINE vf relu(vf x) /* NaN stays NaN */
{
    return vmax(vset(0.0f), x);
}

static mr_status srelu_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                           mr_err *err)
{
    SELF;
    arr x = in_arr(base, in, 0), y = out_arr(base, out, 0);
    const float *p = in[1].data;
    EACH_ROW(r)
    {
        int64_t at = r * k->width;
        for (int64_t i = 0; i < k->width; i += W) {
            int l = LANES(i, k->width);
            vf v = relu(ld(x, at + i, l));
            st(y, at + i, l, v * v * p[r]);
        }
    }
    (void)ws, (void)err;
    return MR_OK;
}

static mr_status srelu_bwd_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                               void *ws, mr_err *err)
{
    SELF;
    arr dy = in_arr(base, in, 0), x = in_arr(base, in, 1), dx = out_arr(base, out, 0);
    const float *p = in[2].data;
    float *dp = out[1].data;
    EACH_ROW(r)
    {
        int64_t at = r * k->width;
        vf sum = { 0 };
        for (int64_t i = 0; i < k->width; i += W) {
            int l = LANES(i, k->width);
            vf d = ld(dy, at + i, l), v = relu(ld(x, at + i, l));
            sum += d * (x.bf ? vround_bf(v * v) : v * v);
            st(dx, at + i, l, d * p[r] * 2.0f * v);
        }
        dp[r] = vsum(sum);
    }
    (void)ws, (void)err;
    return MR_OK;
}

/* ---- from types to kernels ------------------------------------------------------------------ */
static void shape(struct weighted *k, const mr_type *x, int halves)
{
    k->rows = mr_rows(x);
    k->stride = mr_last(x);
    k->fused = halves;
    k->width = halves ? k->stride / 2 : k->stride;
    k->up_at = halves ? k->width : 0;
}

/* `gate` is operand g; a missing operand g + 2 means that its rows hold both halves */
static int is_fused(const mr_call *c, uint32_t g)
{
    return c->n_in <= g + 2 || !c->in[g + 2];
}

static mr_status swiglu_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    (void)err;
    shape((struct weighted *)base, c->in[0], is_fused(c, 0));
    base->run = swiglu_run;
    return MR_OK;
}

static mr_status swiglu_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    (void)err;
    shape((struct weighted *)base, c->in[1], is_fused(c, 1));
    base->run = swiglu_bwd_run;
    return MR_OK;
}

static mr_status srelu_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    (void)err;
    shape((struct weighted *)base, c->in[0], 0);
    base->flags |= MR_K_INPLACE0;
    base->run = c->n_in > 2 ? srelu_bwd_run : srelu_run;
    return MR_OK;
}

const struct op_row ISA_NAME(weighted_rows)[] = {
    { "weighted_swiglu", "xfX>x", sizeof(struct weighted), swiglu_prepare },
    { "weighted_swiglu.bwd", "xxfX>xfX", sizeof(struct weighted), swiglu_bwd_prepare },
    { "weighted_srelu", "xf>x", sizeof(struct weighted), srelu_prepare },
    { "weighted_srelu.bwd", "xxf>xf", sizeof(struct weighted), srelu_prepare },
    { 0 },
};
