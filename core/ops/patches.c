/* SPDX-License-Identifier: Apache-2.0
 *
 * patches.c - pictures to rows, for vision transformers (Dosovitskiy et al. 2021). A tile of S x S
 * pixels is cut into P = (S/p)² patches, row by row; a patch's values lie as channel, row, column,
 * so that a linear layer on them is the convolution of kernel and stride p.
 *
 *   patchify         y[n P + r g + c][(ch p + i) p + j] = pixels[n][ch][r p + i][c p + j]
 *   patch_positions  the rows of each tile with a class row before or behind them, plus one
 *                    learned row each: y[n P' + k] = (x of that patch, or cls) + pos[k]
 *
 * The gradient by x is shuffle_patches, which drops the class rows; those by pos and cls are sums
 * over the tiles, n ascending.
 */
#include "core/ops/grid.h"

static mr_status patchify_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const mr_type *x = mri_in(c, 0);
    int64_t p = mr_attr_i(c, "patch", 0), S = x->rank == 4 ? x->dim[2] : 0;
    if (p < 1 || !S || S % p)
        return mri_op_fail(err, "patchify", "patch is %lld, must divide the side of tiles, %lld",
                           (long long)p, (long long)S);
    return mri_infer(c, out, err, "patchify", "pixels:F[N,C,S,S] -> y:F[R,K]",
                     MRI_GIVEN({ "R", x->dim[0] * (S / p) * (S / p) }, { "K", x->dim[1] * p * p }));
}

static mr_status patchify_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), y = mri_out_view(c, out, 0);
    int64_t N = c->in[0]->dim[0], C = c->in[0]->dim[1], S = c->in[0]->dim[2];
    int64_t p = mr_attr_i(c, "patch", 1), g = S / p, at = 0;
    (void)err;
    for (int64_t n = 0; n < N; n++)
        for (int64_t patch = 0; patch < g * g; patch++)
            for (int64_t ch = 0; ch < C; ch++)
                for (int64_t i = 0; i < p; i++)
                    for (int64_t j = 0; j < p; j++, at++)
                        mri_put(y, at, mri_get(x, ((n * C + ch) * S + patch / g * p + i) * S +
                                                      patch % g * p + j));
    return 0;
}

static void moves_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 0, 0);
}

/* ---- patch_positions ------------------------------------------------------------------------ */
static mri_grid rows_of(const mr_call *c, const mr_type *pos)
{
    bool has_class = strcmp(mr_attr_s(c, "class", "none"), "none");
    int64_t rows = pos && pos->rank == 2 ? pos->dim[0] : 0;
    return mri_grid_of(c, 0, rows - has_class);
}

/* A class row and its operand come together. */
static mr_status check_class(const mri_grid *g, bool cls, const char *op, mr_err *err)
{
    if (g->patches < 1)
        return mri_op_fail(err, op, "pos has %lld rows, there must be one for each of some patches",
                           (long long)g->rows);
    if ((g->at >= 0) != cls)
        return mri_op_fail(err, op, "cls is %s, class says %s", cls ? "there" : "absent",
                           g->at >= 0 ? "there is a class row" : "none");
    return 0;
}

static mr_status positions_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mri_grid g = rows_of(c, mri_in(c, 1));
    int64_t R = mri_in(c, 0)->rank == 2 ? c->in[0]->dim[0] : 0;
    mr_status st = check_class(&g, mri_in(c, 2) != NULL, "patch_positions", err);
    if (!st && R % g.patches)
        st = mri_op_fail(err, "patch_positions", "%lld rows are not whole tiles of %lld patches",
                         (long long)R, (long long)g.patches);
    return st ? st
              : mri_infer(c, out, err, "patch_positions",
                          "x:F[R,D] pos:G[L,D] cls:H[D] -> y:F[Q,D]",
                          MRI_GIVEN({ "Q", R / g.patches * g.rows }));
}

static mr_status positions_vjp(const mr_vjp *v, mr_err *err)
{
    const mr_call *c = v->call;
    mri_grid g = rows_of(c, c->in[1]);
    mr_val dy = v->dout[0];
    mr_attr where = mr_as("class", mr_attr_s(c, "class", "none"));
    (void)err;
    if (!dy)
        return 0;
    /* as one row of patches: shuffle_patches only drops class rows here */
    if (mri_need(v, 0))
        v->din[0] = g.at < 0 ? dy
                             : mri_emit(v, "shuffle_patches", MR_IN(dy),
                                        MR_AT(mr_ai("grid", 1), mr_ai("runs", g.patches), where));
    mr_val dpos = mri_main_grad(v, 1), dcls = mri_main_grad(v, 2);
    if (dpos || dcls)
        mri_emit_n(v, NULL, 0, "patch_positions.wgrad", MR_IN(dy, dpos, dcls),
                   MR_AT(mr_ai("rows", g.rows), where));
    return 0;
}

static mr_status positions_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), pos = mri_in_view(c, in, 1), cls = mri_in_view(c, in, 2);
    mri_view y = mri_out_view(c, out, 0);
    mri_grid g = rows_of(c, c->in[1]);
    int64_t N = c->in[0]->dim[0] / g.patches, D = c->in[0]->dim[1];
    (void)err;
    for (int64_t n = 0; n < N; n++)
        for (int64_t k = 0; k < g.rows; k++)
            for (int64_t d = 0; d < D; d++) {
                double v = k == g.at ? mri_get(cls, d)
                                     : mri_get(x, (n * g.patches + k - g.first) * D + d);
                mri_put(y, (n * g.rows + k) * D + d, v + mri_get(pos, k * D + d));
            }
    return 0;
}

static void positions_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, (double)mr_numel(c->out[0]), 0);
}

static mr_status wgrad_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    int64_t L = mr_attr_i(c, "rows", 0), R = mri_in(c, 0)->rank == 2 ? c->in[0]->dim[0] : 0;
    if (L < 1 || R % L)
        return mri_op_fail(err, "patch_positions.wgrad", "%lld rows are not whole tiles of %lld",
                           (long long)R, (long long)L);
    return mri_infer(c, out, err, "patch_positions.wgrad",
                     "dy:F[R,D] dpos:S[L,D] dcls:S[D] ->", MRI_GIVEN({ "L", L }));
}

static mr_status wgrad_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view dy = mri_in_view(c, in, 0), dpos = mri_in_view(c, in, 1);
    mri_view dcls = mri_in_view(c, in, 2);
    int64_t R = c->in[0]->dim[0], D = c->in[0]->dim[1], L = mr_attr_i(c, "rows", 1);
    mri_grid g = mri_grid_of(c, 0, L - 1);
    (void)out, (void)err;
    for (int64_t r = 0; r < R; r++)
        for (int64_t d = 0; d < D; d++) {
            double v = mri_get(dy, r * D + d);
            if (dpos.kind)
                mri_acc(dpos, r % L * D + d, v);
            if (dcls.kind && r % L == g.at)
                mri_acc(dcls, d, v);
        }
    return 0;
}

static void wgrad_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, (double)mr_numel(c->in[0]), 6);
}

const mr_op_def mri_ops_patches[] = {
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "patchify",
      .doc = "square patches of tiles as rows, each channel by channel; Dosovitskiy et al. 2021",
      .sig = "pixels -> y", .attrs = "patch:i", .shape = patchify_shape, .ref = patchify_ref,
      .cost = moves_cost, .shard = "N . . . -> R K |",
      .cases = MRI_CASES("pixels=F[2,3,6,6] @patch=2", "pixels=F[1,1,3,3] @patch=1",
                         "pixels=F[3,3,28,28] @patch=14") },
    { MRI_OP, .id = "patch_positions",
      .doc = "rows of tiles, each tile with its class row, plus learned positions",
      .sig = "x pos cls? -> y", .attrs = MRI_CLASS_ATTR, .shape = positions_shape,
      .vjp = positions_vjp, .ref = positions_ref, .cost = positions_cost,
      .shard = "R D, L D, D -> Q D | D:map",
      .cases = MRI_CASES("x=F[8,6] pos=F[4,6]", "x=F[12,33] pos=F[5,33] cls=F[33] @class=first",
                         "x=F[27,7] pos=F[10,7] cls=F[7] @class=last") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "patch_positions.wgrad",
      .doc = "dpos += and dcls += the sum of dy over tiles",
      .sig = "dy dpos!? dcls!? ->", .attrs = "rows:i " MRI_CLASS_ATTR, .shape = wgrad_shape,
      .ref = wgrad_ref, .cost = wgrad_cost, .shard = "R D, L D, D -> | D:map",
      .cases = MRI_CASES("dy=F[15,33] dpos=S[5,33] dcls=S[33] @rows=5 @class=first",
                         "dy=F[30,7] dpos=S[10,7] dcls=- @rows=10",
                         "dy=F[20,6] dpos=- dcls=S[6] @rows=10 @class=last") },
    MRI_OPS_END
};
