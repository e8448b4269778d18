/* SPDX-License-Identifier: Apache-2.0
 *
 * grouped_linear.c - one product for each expert, over rows that lie grouped by expert: expert
 * e owns rows offsets[e] to offsets[e+1]. An expert may have no rows, or all.
 *
 *   grouped_linear           y[r] = x[r] W_e
 *   grouped_linear.dgrad     dx[r] = dy[r] W_e^T
 *   grouped_linear.wgrad     dW_e += sum over its rows of x[r]^T dy[r]
 *
 * W_e is [I,O] in memory (layout io, as Llama 4 stores it) or [O,I] (oi, as nn.Linear does).
 * The offsets are on the device and may stop short of R, the bound of the rows: rows that no
 * expert owns give zeros and take no part in gradients.
 */
#include "core/ops/common.h"
#include <stdlib.h>

/* Sizes and strides of one use. W_e's element (i, o) lies at e I O + i si + o so. */
typedef struct grouped {
    int64_t R, E, I, O, si, so;
    int64_t *offset; /* [E+1], checked */
} grouped;

static bool is_io(const mr_call *c)
{
    return !strcmp(mr_attr_s(c, "layout", "io"), "io");
}

static mr_status grouped_open(grouped *g, const mr_call *c, const char *op, const mr_type *w,
                              int64_t R, mri_view offsets, mr_err *err)
{
    bool io = is_io(c);
    g->R = R;
    g->E = w->dim[0];
    g->I = w->dim[io ? 1 : 2];
    g->O = w->dim[io ? 2 : 1];
    g->si = io ? g->O : 1;
    g->so = io ? 1 : g->I;
    g->offset = mri_alloc((size_t)(g->E + 1) * sizeof *g->offset);
    for (int64_t e = 0; e <= g->E; e++) {
        int64_t low = e ? g->offset[e - 1] : 0;
        g->offset[e] = mri_get_i(offsets, e);
        if (g->offset[e] < low || g->offset[e] > R)
            return mri_op_fail(err, op, "offsets[%lld] is %lld, must be in %lld..%lld (rows)",
                               (long long)e, (long long)g->offset[e], (long long)low,
                               (long long)R);
    }
    return MR_OK;
}

static void clear_row(mri_view v, int64_t row, int64_t width)
{
    for (int64_t i = 0; i < width; i++)
        mri_put(v, row * width + i, 0);
}

/* clears the rows that no expert owns */
static void clear_rest(const grouped *g, mri_view v, int64_t width)
{
    for (int64_t r = 0; r < g->offset[0]; r++)
        clear_row(v, r, width);
    for (int64_t r = g->offset[g->E]; r < g->R; r++)
        clear_row(v, r, width);
}

/* a row of y = x W (from i to o), or of dx = dy W^T (from o to i) */
static void row_product(mri_view x, int64_t n_from, int64_t s_from, mri_view w, int64_t w0,
                        int64_t s_to, int64_t n_to, mri_view y, int64_t row)
{
    for (int64_t j = 0; j < n_to; j++) {
        double sum = 0;
        for (int64_t i = 0; i < n_from; i++)
            sum += mri_get(x, row * n_from + i) * mri_get(w, w0 + i * s_from + j * s_to);
        mri_put(y, row * n_to + j, sum);
    }
}

/* ---- grouped_linear ----------------------------------------------------------------------- */
static mr_status grouped_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "grouped_linear",
                     is_io(c) ? "x:F[R,I] w:G[E,I,O] offsets:i32[E+1] -> y:F[R,O]"
                              : "x:F[R,I] w:G[E,O,I] offsets:i32[E+1] -> y:F[R,O]",
                     NULL);
}

static mr_status grouped_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mr_status st;
    grouped g;
    mri_view x = mri_in_view(c, in, 0), w = mri_in_view(c, in, 1), y = mri_out_view(c, out, 0);

    MR_TRY(grouped_open(&g, c, "grouped_linear", c->in[1], c->in[0]->dim[0],
                        mri_in_view(c, in, 2), err));
    for (int64_t e = 0; e < g.E; e++)
        for (int64_t r = g.offset[e]; r < g.offset[e + 1]; r++)
            row_product(x, g.I, g.si, w, e * g.I * g.O, g.so, g.O, y, r);
    clear_rest(&g, y, g.O);
out:
    free(g.offset);
    return st;
}

static mr_status grouped_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    mr_val dy = v->dout[0], x = v->in[0], w = v->in[1], offsets = v->in[2];
    const mr_attr *attr = v->call->attr;
    if (!dy)
        return MR_OK;
    if (mri_need(v, 0))
        v->din[0] = mri_emit(v, "grouped_linear.dgrad", MR_IN(dy, w, offsets), attr,
                             v->call->n_attr);
    if (mri_need(v, 1))
        mri_emit_n(v, NULL, 0, "grouped_linear.wgrad", MR_IN(x, dy, offsets, mri_main_grad(v, 1)),
                   attr, v->call->n_attr);
    return MR_OK;
}

static void grouped_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 2 * (double)mr_numel(c->in[0]) * (double)c->in[1]->dim[is_io(c) ? 2 : 1], 0);
}

/* ---- grouped_linear.dgrad ----------------------------------------------------------------- */
static mr_status dgrad_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "grouped_linear.dgrad",
                     is_io(c) ? "dy:F[R,O] w:G[E,I,O] offsets:i32[E+1] -> dx:F[R,I]"
                              : "dy:F[R,O] w:G[E,O,I] offsets:i32[E+1] -> dx:F[R,I]",
                     NULL);
}

static mr_status dgrad_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mr_status st;
    grouped g;
    mri_view dy = mri_in_view(c, in, 0), w = mri_in_view(c, in, 1), dx = mri_out_view(c, out, 0);

    MR_TRY(grouped_open(&g, c, "grouped_linear.dgrad", c->in[1], c->in[0]->dim[0],
                        mri_in_view(c, in, 2), err));
    for (int64_t e = 0; e < g.E; e++)
        for (int64_t r = g.offset[e]; r < g.offset[e + 1]; r++)
            row_product(dy, g.O, g.so, w, e * g.I * g.O, g.si, g.I, dx, r);
    clear_rest(&g, dx, g.I);
out:
    free(g.offset);
    return st;
}

static void dgrad_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 2 * (double)mr_numel(c->in[0]) * (double)c->in[1]->dim[is_io(c) ? 1 : 2], 0);
}

/* ---- grouped_linear.wgrad ----------------------------------------------------------------- */
static mr_status wgrad_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "grouped_linear.wgrad",
                     is_io(c) ? "x:F[R,I] dy:F[R,O] offsets:i32[E+1] dw:S[E,I,O] ->"
                              : "x:F[R,I] dy:F[R,O] offsets:i32[E+1] dw:S[E,O,I] ->",
                     NULL);
}

static mr_status wgrad_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)out;
    mr_status st;
    grouped g;
    mri_view x = mri_in_view(c, in, 0), dy = mri_in_view(c, in, 1), dw = mri_in_view(c, in, 3);

    MR_TRY(grouped_open(&g, c, "grouped_linear.wgrad", c->in[3], c->in[0]->dim[0],
                        mri_in_view(c, in, 2), err));
    for (int64_t e = 0; e < g.E; e++)
        for (int64_t i = 0; i < g.I; i++)
            for (int64_t o = 0; o < g.O; o++) {
                double sum = 0;
                for (int64_t r = g.offset[e]; r < g.offset[e + 1]; r++)
                    sum += mri_get(x, r * g.I + i) * mri_get(dy, r * g.O + o);
                mri_acc(dw, e * g.I * g.O + i * g.si + o * g.so, sum);
            }
out:
    free(g.offset);
    return st;
}

/* The same without anything to add to; how many experts there are is said by the offsets. */
static mr_status wgrad_first_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st =
        mri_infer(c, out, err, "grouped_linear.wgrad.first",
                  is_io(c) ? "x:F[R,I] dy:F[R,O] offsets:i32[N] sumsq:S[1] -> dw:S[N,I,O]"
                           : "x:F[R,I] dy:F[R,O] offsets:i32[N] sumsq:S[1] -> dw:S[N,O,I]",
                  NULL);
    if (!st)
        out[0]->dim[0] -= 1;
    return st;
}

static mr_status wgrad_first_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mr_call add = { sizeof add, 4, 0, c->n_attr,
                    (const mr_type *[]){ c->in[0], c->in[1], c->in[2], c->out[0] }, NULL, c->attr };
    mr_buf buf[4] = { in[0], in[1], in[2], out[0] };
    mri_view dw = mri_out_view(c, out, 0);
    double sum = 0;
    memset(out[0].data, 0, mr_bytes(c->out[0]));
    mr_status st = wgrad_ref(&add, buf, NULL, err);
    if (st || c->n_in < 4 || !c->in[3])
        return st;
    for (int64_t i = 0; i < mr_numel(c->out[0]); i++)
        sum += mri_get(dw, i) * mri_get(dw, i);
    mri_acc(mri_in_view(c, in, 3), 0, sum);
    return MR_OK;
}

static void wgrad_first_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 2 * (double)mr_numel(c->in[0]) * (double)mr_last(c->in[1]), 0);
}

static void wgrad_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 2 * (double)mr_numel(c->in[0]) * (double)mr_last(c->in[1]), 1u << 3);
}

/* The dims of the experts split (tensor parallelism inside experts); the axis of experts itself
 * does not by a plain map, because it would cut the offsets: that is what dispatch is for. */
#define BY_LAYOUT(before, io, oi, after) \
    "layout=io ? " before io after " || layout=oi ? " before oi after
const mr_op_def mri_ops_grouped_linear[] = {
    { MRI_OP, .id = "grouped_linear",
      .doc = "y[r] = x[r] W_e for the rows r of expert e; rows of no expert give 0",
      .sig = "x w offsets -> y", .attrs = "layout:s=io|oi", .shape = grouped_shape,
      .vjp = grouped_vjp, .ref = grouped_ref, .cost = grouped_cost,
      .shard = BY_LAYOUT("R I, ", "E I O", "E O I", ", X -> R O | O:map I:sum"),
      .cases = MRI_CASES("x=F[9,4] w=F[3,4,5] offsets=i32[4]part:9",
                         "x=F[9,4] w=F[3,5,4] offsets=i32[4]{0,0,7,7} @layout=oi",
                         "x=F[3,4] w=F[5,4,2] offsets=i32[6]part:3") },
    { MRI_OP, .id = "grouped_linear.dgrad", .flags = MR_OP_NO_VJP,
      .doc = "dx[r] = dy[r] W_e^T for the rows r of expert e; rows of no expert give 0",
      .sig = "dy w offsets -> dx", .attrs = "layout:s=io|oi", .shape = dgrad_shape,
      .ref = dgrad_ref, .cost = dgrad_cost,
      .shard = BY_LAYOUT("R O, ", "E I O", "E O I", ", X -> R I | O:sum I:map"),
      .cases = MRI_CASES("dy=F[9,5] w=F[3,4,5] offsets=i32[4]part:9",
                         "dy=F[9,5] w=F[3,5,4] offsets=i32[4]part:7 @layout=oi") },
    { MRI_OP, .id = "grouped_linear.wgrad", .flags = MR_OP_NO_VJP,
      .doc = "dW_e += sum over the rows r of expert e of x[r]^T dy[r]",
      .sig = "x dy offsets dw! ->", .attrs = "layout:s=io|oi", .shape = wgrad_shape,
      .ref = wgrad_ref, .cost = wgrad_cost,
      .shard = BY_LAYOUT("R I, R O, X, ", "E I O", "E O I", " -> | I:map O:map"),
      .cases = MRI_CASES("x=F[9,4] dy=F[9,5] offsets=i32[4]part:9 dw=S[3,4,5]",
                         "x=F[9,4] dy=F[9,5] offsets=i32[4]part:7 dw=S[3,5,4] @layout=oi") },
    { MRI_OP, .id = "grouped_linear.wgrad.first", .flags = MR_OP_NO_VJP,
      .doc = "dW_e = sum over the rows r of expert e of x[r]^T dy[r]: the first micro-batch's; "
             "sumsq += sum of all dW^2",
      .sig = "x dy offsets sumsq!? -> dw", .attrs = "layout:s=io|oi", .shape = wgrad_first_shape,
      .ref = wgrad_first_ref, .cost = wgrad_first_cost,
      .cases = MRI_CASES("x=F[9,4] dy=F[9,5] offsets=i32[4]{0,4,4,9}",
                         "x=F[9,4] dy=F[9,5] offsets=i32[4]part:7 @layout=oi",
                         "x=F[130,72] dy=F[130,136] offsets=i32[4]{0,0,97,130}",
                         "x=F[9,4] dy=F[9,5] offsets=i32[4]{0,4,4,9} sumsq=S[1]pos",
                         "x=F[130,72] dy=F[130,136] offsets=i32[4]{0,0,97,130} sumsq=S[1]") },
    MRI_OPS_END
};
