/* SPDX-License-Identifier: Apache-2.0
 *
 * linears.c - up to three products of one input, which may be normalised first, and the two of a
 * gated unit with the gate: with n = rmsnorm(x), or x itself,
 *
 *   linears          y_i = n w_iᵀ                        (queries, keys and values, say)
 *   linear_swiglu    y = silu(n gateᵀ) · (n upᵀ)
 *
 * Fused for few rows, where a launch costs as much as a small product: weights are read once, n is
 * made by whoever needs it, and nothing in between is written. Without gradients: where something
 * is kept for them the ops stay apart.
 */
#include "core/ops/normed.h"

static void row_times(const double *x, mri_view w, int64_t D, int64_t O, double *y)
{
    for (int64_t o = 0; o < O; o++) {
        y[o] = 0;
        for (int64_t i = 0; i < D; i++)
            y[o] += x[i] * mri_get(w, o * D + i);
    }
}

/* ---- linears ------------------------------------------------------------------------------ */
static mr_status linears_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    static const char *const spec[] = {
        "x:F[..,D] nw:F[D] w:G[A,D] w1:G[B,D] w2:G[C,D] -> y:F[..,A]",
        "x:F[..,D] nw:F[D] w:G[A,D] w1:G[B,D] w2:G[C,D] -> y:F[..,A] y1:F[..,B]",
        "x:F[..,D] nw:F[D] w:G[A,D] w1:G[B,D] w2:G[C,D] -> y:F[..,A] y1:F[..,B] y2:F[..,C]",
    };
    uint32_t n = mri_in(c, 4) ? 3 : mri_in(c, 3) ? 2 : 1;
    if (mri_in(c, 4) && !mri_in(c, 3))
        return mri_op_fail(err, "linears", "w2 is given without w1");
    if (c->n_out != n)
        return mri_op_fail(err, "linears", "%u outputs asked of %u weights", c->n_out, n);
    mr_status st = mri_normed_check(c, "linears", 1, err);
    return st ? st : mri_infer(c, out, err, "linears", spec[n - 1], NULL);
}

static mr_status linears_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), nw = mri_in_view(c, in, 1);
    int64_t D = mr_last(c->in[0]), T = mr_rows(c->in[0]), most = 0;
    (void)err;
    for (uint32_t i = 0; i < c->n_out; i++)
        most = c->in[2 + i]->dim[0] > most ? c->in[2 + i]->dim[0] : most;
    double *n = mri_alloc((size_t)(D + most) * sizeof *n), *row = n + D;
    for (int64_t t = 0; t < T; t++) {
        mri_normed_row(c, x, nw, t, D, n);
        for (uint32_t i = 0; i < c->n_out; i++) {
            int64_t O = c->in[2 + i]->dim[0];
            row_times(n, mri_in_view(c, in, 2 + i), D, O, row);
            for (int64_t o = 0; o < O; o++)
                mri_put(mri_out_view(c, out, i), t * O + o, row[o]);
        }
    }
    free(n);
    return 0;
}

static void linears_cost(const mr_call *c, mr_cost *cost)
{
    double flops = 0;
    for (uint32_t i = 0; i < c->n_out; i++)
        flops += 2.0 * (double)mr_rows(c->in[0]) * (double)mr_numel(c->in[2 + i]);
    mri_cost(c, cost, flops, 0);
}

/* ---- linear_swiglu ------------------------------------------------------------------------ */
static mr_status swiglu_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = mri_normed_check(c, "linear_swiglu", 1, err);
    return st ? st : mri_infer(c, out, err, "linear_swiglu",
                               "x:F[..,D] nw:F[D] gate:G[O,D] up:G[O,D] -> y:F[..,O]", NULL);
}

static mr_status swiglu_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), nw = mri_in_view(c, in, 1), y = mri_out_view(c, out, 0);
    int64_t D = mr_last(c->in[0]), T = mr_rows(c->in[0]), F = c->in[2]->dim[0];
    double *n = mri_alloc((size_t)(D + 2 * F) * sizeof *n), *g = n + D, *u = g + F;
    (void)err;
    for (int64_t t = 0; t < T; t++) {
        mri_normed_row(c, x, nw, t, D, n);
        row_times(n, mri_in_view(c, in, 2), D, F, g);
        row_times(n, mri_in_view(c, in, 3), D, F, u);
        for (int64_t f = 0; f < F; f++)
            mri_put(y, t * F + f, g[f] / (1 + exp(-g[f])) * u[f]);
    }
    free(n);
    return 0;
}

static void swiglu_cost(const mr_call *c, mr_cost *cost)
{
    double T = (double)mr_rows(c->in[0]);
    mri_cost(c, cost, 4 * T * (double)mr_numel(c->in[2]) + 5 * (double)mr_numel(c->out[0]), 0);
}

const mr_op_def mri_ops_linears[] = {
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "linears",
      .doc = "y_i = n w_iᵀ with n = rmsnorm(x, nw) if normed, else x",
      .sig = "x nw? w w1? w2? -> y y1? y2?", .attrs = MRI_NORMED_ATTRS, .shape = linears_shape,
      .ref = linears_ref, .cost = linears_cost,
      .cases = MRI_CASES("x=F[5,16] nw=- w=F[6,16] w1=F[3,16] w2=F[9,16]",
                         "x=F[1,24] nw=F[24] w=F[40,24] w1=F[5,24] w2=- y2=- @normed=1",
                         "x=F[2,3,8] nw=- w=F[4,8] w1=- w2=- y1=- @normed=1 @eps=1e-3",
                         "x=F[8,264] nw=F[264] w=F[70,264] w1=F[33,264] w2=F[1,264] @normed=1",
                         "x=F[67,33] nw=F[33] w=F[34,33] w1=- w2=- y1=- @normed=1") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "linear_swiglu",
      .doc = "y = silu(n gateᵀ) · (n upᵀ) with n = rmsnorm(x, nw) if normed, else x",
      .sig = "x nw? gate up -> y", .attrs = MRI_NORMED_ATTRS, .shape = swiglu_shape,
      .ref = swiglu_ref, .cost = swiglu_cost,
      .shard = "T ., ., F ., F . -> T F | T:map F:map",
      .cases = MRI_CASES("x=F[6,16] nw=- gate=F[8,16] up=F[8,16]",
                         "x=F[2,24] nw=F[24] gate=F[40,24] up=F[40,24] @normed=1 @eps=1e-6",
                         "x=F[8,264] nw=F[264] gate=F[70,264] up=F[70,264] @normed=1") },
    MRI_OPS_END
};
