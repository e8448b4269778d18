/* SPDX-License-Identifier: Apache-2.0
 *
 * rope_2d.c - rotary positions in two dimensions, for the patches of a tile (as Llama 4's vision
 * tower and Pixtral have it). Of each head of C values, pairs (2i, 2i+1): the first n, n =
 * len(inv_freq) <= C/4, are turned by (column + 1) inv_freq[i], the next n by (row + 1)
 * inv_freq[i]; the class row and what is left of a head pass unchanged. `inverse` turns back: the
 * transpose, hence the vjp.
 */
#include "core/ops/grid.h"

static mr_status rope_2d_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const mr_attr *freq = mr_attr_find(c, "inv_freq");
    int64_t C = mr_attr_i(c, "head_dim", 0), D = mr_last(c->in[0]), grid = mr_attr_i(c, "grid", 0);
    if (C < 1 || D % C)
        return mri_op_fail(err, "rope_2d", "head_dim is %lld, must divide the width of x, %lld",
                           (long long)C, (long long)D);
    if (4 * (int64_t)freq->n > C)
        return mri_op_fail(err, "rope_2d",
                           "inv_freq has %u values, a head of %lld has only %lld pairs a direction",
                           freq->n, (long long)C, (long long)(C / 4));
    mr_status st = mri_grid_check(c, err, "rope_2d", 0, 1);
    if (!st)
        st = mri_grid_check(c, err, "rope_2d", mr_rows(c->in[0]),
                            mri_grid_of(c, grid, grid * grid).rows);
    return st ? st : mri_infer(c, out, err, "rope_2d", "x:F[T,D] -> y:F[T,D]", NULL);
}

static mr_status rope_2d_vjp(const mr_vjp *v, mr_err *err)
{
    const mr_call *c = v->call;
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = mri_emit(v, "rope_2d", MR_IN(v->dout[0]),
                             MR_AT(*mr_attr_find(c, "head_dim"), *mr_attr_find(c, "inv_freq"),
                                   *mr_attr_find(c, "grid"),
                                   mr_as("class", mr_attr_s(c, "class", "none")),
                                   mr_ai("inverse", !mr_attr_i(c, "inverse", 0))));
    return 0;
}

static mr_status rope_2d_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), y = mri_out_view(c, out, 0);
    const mr_attr *freq = mr_attr_find(c, "inv_freq");
    int64_t T = c->in[0]->dim[0], D = c->in[0]->dim[1], C = mr_attr_i(c, "head_dim", 0);
    int64_t grid = mr_attr_i(c, "grid", 1), n = freq->n;
    mri_grid g = mri_grid_of(c, grid, grid * grid);
    double turn = mr_attr_i(c, "inverse", 0) ? -1 : 1;
    (void)err;
    for (int64_t t = 0; t < T; t++)
        for (int64_t h = t * D; h < (t + 1) * D; h += C) {
            int64_t k = t % g.rows - g.first;
            int64_t pairs = t % g.rows == g.at ? 0 : 2 * n; /* that are turned */
            for (int64_t i = 0; i < pairs; i++) {
                int64_t at = i < n ? k % grid : k / grid;
                double angle = turn * (double)(at + 1) * freq->u.fs[i % n];
                double a = mri_get(x, h + 2 * i), b = mri_get(x, h + 2 * i + 1);
                mri_put(y, h + 2 * i, a * cos(angle) - b * sin(angle));
                mri_put(y, h + 2 * i + 1, a * sin(angle) + b * cos(angle));
            }
            for (int64_t i = h + 2 * pairs; i < h + C; i++)
                mri_put(y, i, mri_get(x, i));
        }
    return 0;
}

static void rope_2d_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 3 * (double)mr_numel(c->in[0]), 0);
}

const mr_op_def mri_ops_rope_2d[] = {
    { MRI_OP, .flags = MR_OP_INPLACE0, .id = "rope_2d",
      .doc = "rotates pairs of each head by a patch's column, then by its row; Llama 4, Pixtral",
      .sig = "x -> y",
      .attrs = "head_dim:i inv_freq:fs grid:i " MRI_CLASS_ATTR " inverse:i=0",
      .shape = rope_2d_shape, .vjp = rope_2d_vjp, .ref = rope_2d_ref, .cost = rope_2d_cost,
      .shard = "T D -> T D | D:map",
      .cases = MRI_CASES("x=F[10,16] @head_dim=8 @inv_freq=1,0.1 @grid=3 @class=last",
                         "x=F[4,4] @head_dim=4 @inv_freq=0.7 @grid=2",
                         "x=F[34,44] @head_dim=22 @inv_freq=1,0.3,0.1,0.03,0.01 @grid=4 "
                         "@class=first @inverse=1") },
    MRI_OPS_END
};
