/* SPDX-License-Identifier: Apache-2.0
 *
 * experts.c - the two halves of a mixture's experts with what stands around them, for few rows:
 *
 *   experts_swiglu   y[r] = silu(g) · u,  (g, u) = p[rows[r]] n[rows[r] / K] W_e
 *   experts_add      x[t] = a[t] + b[t] + y[r] W_e,  r the row with rows[r] = t
 *
 * n = rmsnorm(x), or x itself; row r is expert e's if offsets[e] <= r < offsets[e + 1]. The first
 * is permute, grouped_linear and swiglu without what they write in between (grouped_linear.c has
 * the layouts: W_e is [D, 2F] or [2F, D], gate first); the second grouped_linear and unpermute_add
 * where a token has one expert. Only the weights of experts with rows are read. A row that no
 * expert owns counts as zeros.
 */
#include "core/ops/normed.h"

static bool is_io(const mr_call *c)
{
    return !strcmp(mr_attr_s(c, "layout", "io"), "io");
}

/* the expert of row r, -1: none; checks the offsets */
static mr_status expert_of(mri_view offsets, int64_t E, int64_t R, int64_t r, const char *op,
                           int64_t *expert, mr_err *err)
{
    int64_t low = 0;
    *expert = -1;
    for (int64_t e = 0; e <= E; e++) {
        int64_t at = mri_get_i(offsets, e);
        if (at < low || at > R)
            return mri_op_fail(err, op, "offsets[%lld] is %lld, must be in %lld..%lld (rows)",
                               (long long)e, (long long)at, (long long)low, (long long)R);
        if (e && r >= low && r < at)
            *expert = e - 1;
        low = at;
    }
    return MR_OK;
}

static mr_status pair_of(mri_view rows, int64_t r, int64_t n, const char *op, int64_t *i,
                         mr_err *err)
{
    *i = mri_get_i(rows, r);
    if (*i >= 0 && *i < n)
        return MR_OK;
    return mri_op_fail(err, op, "rows[%lld] is %lld, must be in [0,%lld)", (long long)r,
                       (long long)*i, (long long)n);
}

/* y[o] = sum over i of x[i] W_e(i, o) */
static void row_times(const double *x, mri_view w, int64_t e, int64_t I, int64_t O, bool io,
                      double *y)
{
    for (int64_t o = 0; o < O; o++) {
        y[o] = 0;
        for (int64_t i = 0; i < I && e >= 0; i++)
            y[o] += x[i] * mri_get(w, e * I * O + (io ? i * O + o : o * I + i));
    }
}

/* ---- experts_swiglu ----------------------------------------------------------------------- */
static mr_status swiglu_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const mr_type *x = mri_in(c, 0), *rows = mri_in(c, 3), *w = mri_in(c, 4);
    bool known = x && x->rank == 2 && x->dim[0] > 0 && rows && rows->rank == 1 && w && w->rank == 3;
    int64_t T = known ? x->dim[0] : 1, R = known ? rows->dim[0] : 0;
    int64_t two = known ? w->dim[is_io(c) ? 2 : 1] : 0;
    if (R % T)
        return mri_op_fail(err, "experts_swiglu", "%lld rows are not a multiple of the tokens, %lld",
                           (long long)R, (long long)T);
    if (two % 2)
        return mri_op_fail(err, "experts_swiglu", "w gives %lld values, gate and up are halves",
                           (long long)two);
    mr_status st = mri_normed_check(c, "experts_swiglu", 1, err);
    return st ? st
              : mri_infer(c, out, err, "experts_swiglu",
                          is_io(c) ? "x:F[T,D] nw:F[D] probs:S[T,K] rows:i32[R] w:G[E,D,2*F] "
                                     "offsets:i32[E+1] -> y:F[R,F]"
                                   : "x:F[T,D] nw:F[D] probs:S[T,K] rows:i32[R] w:G[E,2*F,D] "
                                     "offsets:i32[E+1] -> y:F[R,F]",
                          MRI_GIVEN({ "K", R / T }, { "F", two / 2 }));
}

static mr_status swiglu_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    static const char op[] = "experts_swiglu";
    mri_view x = mri_in_view(c, in, 0), nw = mri_in_view(c, in, 1), probs = mri_in_view(c, in, 2);
    mri_view rows = mri_in_view(c, in, 3), w = mri_in_view(c, in, 4), y = mri_out_view(c, out, 0);
    int64_t T = c->in[0]->dim[0], D = c->in[0]->dim[1], R = c->in[3]->dim[0];
    int64_t E = c->in[4]->dim[0], F = c->out[0]->dim[1], e, pair;
    double *n = mri_alloc((size_t)(D + 2 * F) * sizeof *n), *g = n + D;
    mr_status st = MR_OK;
    for (int64_t r = 0; r < R; r++) {
        MR_TRY(expert_of(mri_in_view(c, in, 5), E, R, r, op, &e, err));
        memset(n, 0, (size_t)D * sizeof *n);
        if (e >= 0) {
            MR_TRY(pair_of(rows, r, R, op, &pair, err));
            mri_normed_row(c, x, nw, pair / (R / T), D, n);
            for (int64_t i = 0; i < D && probs.p; i++)
                n[i] *= mri_get(probs, pair);
        }
        row_times(n, w, e, D, 2 * F, is_io(c), g);
        for (int64_t f = 0; f < F; f++)
            mri_put(y, r * F + f, g[f] / (1 + exp(-g[f])) * g[F + f]);
    }
out:
    free(n);
    return st;
}

/* an upper bound: how many experts have rows is data */
static void swiglu_cost(const mr_call *c, mr_cost *cost)
{
    double R = (double)c->in[3]->dim[0], E = (double)c->in[4]->dim[0];
    mri_cost(c, cost, 2 * R * (double)mr_numel(c->in[4]) / E + 5 * (double)mr_numel(c->out[0]), 0);
}

/* ---- experts_add -------------------------------------------------------------------------- */
static mr_status add_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "experts_add",
                     is_io(c) ? "a:F[T,D] b:F[T,D] y:F[T,I] rows:i32[T] w:G[E,I,D] "
                                "offsets:i32[E+1] -> x:F[T,D]"
                              : "a:F[T,D] b:F[T,D] y:F[T,I] rows:i32[T] w:G[E,D,I] "
                                "offsets:i32[E+1] -> x:F[T,D]", NULL);
}

static mr_status add_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    static const char op[] = "experts_add";
    mri_view a = mri_in_view(c, in, 0), b = mri_in_view(c, in, 1), y = mri_in_view(c, in, 2);
    mri_view rows = mri_in_view(c, in, 3), w = mri_in_view(c, in, 4), x = mri_out_view(c, out, 0);
    int64_t T = c->in[0]->dim[0], D = c->in[0]->dim[1], I = c->in[2]->dim[1];
    int64_t E = c->in[4]->dim[0], e, t;
    double *row = mri_alloc((size_t)(I + D) * sizeof *row), *sum = row + I;
    mr_status st = MR_OK;
    for (int64_t r = 0; r < T; r++) {
        MR_TRY(expert_of(mri_in_view(c, in, 5), E, T, r, op, &e, err));
        MR_TRY(pair_of(rows, r, T, op, &t, err));
        for (int64_t i = 0; i < I; i++)
            row[i] = mri_get(y, r * I + i);
        row_times(row, w, e, I, D, is_io(c), sum);
        for (int64_t d = 0; d < D; d++) /* an absent b reads as 0 */
            mri_put(x, t * D + d, mri_get(a, t * D + d) + mri_get(b, t * D + d) + sum[d]);
    }
out:
    free(row);
    return st;
}

static void add_cost(const mr_call *c, mr_cost *cost)
{
    double T = (double)c->in[0]->dim[0], E = (double)c->in[4]->dim[0];
    mri_cost(c, cost, 2 * T * (double)mr_numel(c->in[4]) / E + 2 * (double)mr_numel(c->out[0]), 0);
}

const mr_op_def mri_ops_experts[] = {
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "experts_swiglu",
      .doc = "y[r] = silu(g) u, (g, u) = probs[rows[r]] n[rows[r] / K] W_e, n = rmsnorm(x) or x",
      .sig = "x nw? probs? rows w offsets -> y", .attrs = "layout:s=io|oi " MRI_NORMED_ATTRS,
      .shape = swiglu_shape, .ref = swiglu_ref, .cost = swiglu_cost,
      .cases = MRI_CASES(
          "x=F[6,16] nw=- probs=S[6,1] rows=i32[6]perm w=F[3,16,16] offsets=i32[4]part:6",
          "x=F[4,24] nw=F[24] probs=S[4,2] rows=i32[8]perm w=F[5,24,32] "
          "offsets=i32[6]{0,0,3,3,7,8} @normed=1",
          "x=F[5,16] nw=- probs=- rows=i32[10]perm w=F[2,48,16] offsets=i32[3]{1,4,9} @layout=oi",
          "x=F[7,9] nw=F[9] probs=- rows=i32[7]perm w=F[2,9,6] offsets=i32[3]{0,0,7} @normed=1",
          "x=F[1,264] nw=F[264] probs=S[1,3] rows=i32[3]perm w=F[9,264,144] "
          "offsets=i32[10]{0,0,0,1,1,1,2,2,3,3} @normed=1 @eps=1e-6") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "experts_add",
      .doc = "x[t] = a[t] + b[t] + y[r] W_e with rows[r] = t: one expert a token",
      .sig = "a b? y rows w offsets -> x", .attrs = "layout:s=io|oi", .shape = add_shape,
      .ref = add_ref, .cost = add_cost,
      .cases = MRI_CASES(
          "a=F[6,8] b=- y=F[6,16] rows=i32[6]perm w=F[3,16,8] offsets=i32[4]part:6",
          "a=F[5,24] b=F[5,24] y=F[5,40] rows=i32[5]perm w=F[4,24,40] "
          "offsets=i32[5]{0,0,2,4,4} @layout=oi",
          "a=F[1,72] b=F[1,72] y=F[1,264] rows=i32[1]{0} w=F[5,264,72] "
          "offsets=i32[6]{0,0,0,0,1,1}",
          "a=F[9,7] b=- y=F[9,5] rows=i32[9]perm w=F[2,5,7] offsets=i32[3]{0,3,9}") },
    MRI_OPS_END
};
