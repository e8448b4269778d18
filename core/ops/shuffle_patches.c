/* SPDX-License-Identifier: Apache-2.0
 *
 * shuffle_patches.c - pixel shuffle of vision features (as Llama 4 and InternVL have it): each
 * square of r x r neighbouring patches becomes one row of r² D values, the row offset a of a patch
 * in its square slower than the column offset b; class rows are dropped:
 *
 *   y[n][i (g/r) + j][(r a + b) D + c] = x[n][patch (r i + a) g + (r j + b)][c]
 *
 * With ratio 1 it only drops class rows. `inverse` takes such rows apart again, class rows being
 * zeros: the transpose, hence the vjp. A tile has g x g patches, or `runs` x g if that is given.
 */
#include "core/ops/grid.h"

typedef struct shuffle {
    mri_grid g;
    int64_t r, high, wide, outs; /* patches down and across; rows of a tile after it */
    bool inverse;
} shuffle;

static shuffle shuffle_of(const mr_call *c)
{
    shuffle s = { .r = mr_attr_i(c, "ratio", 1), .wide = mr_attr_i(c, "grid", 1) };
    s.high = mr_attr_i(c, "runs", 0);
    if (!s.high)
        s.high = s.wide;
    s.g = mri_grid_of(c, s.wide, s.high * s.wide);
    s.outs = s.r > 0 ? s.g.patches / (s.r * s.r) : 0;
    s.inverse = mr_attr_i(c, "inverse", 0);
    return s;
}

static mr_status shuffle_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const mr_type *x = mri_in(c, 0);
    int64_t R = x->rank == 2 ? x->dim[0] : 0, D = x->rank == 2 ? x->dim[1] : 0;
    int64_t runs = mr_attr_i(c, "runs", 0);
    if (runs < 0 || runs > 1 << 30)
        return mri_op_fail(err, "shuffle_patches", "runs is %lld, must be in 0..2^30",
                           (long long)runs);
    mr_status st = mri_grid_check(c, err, "shuffle_patches", 0, 1);
    if (st)
        return st;
    shuffle s = shuffle_of(c);
    if (s.r < 1 || s.wide % s.r || s.high % s.r)
        return mri_op_fail(err, "shuffle_patches", "ratio is %lld, must divide the grid, %lld",
                           (long long)s.r, (long long)s.wide);
    if (s.inverse && D % (s.r * s.r))
        return mri_op_fail(err, "shuffle_patches", "rows of %lld values are not of %lld patches",
                           (long long)D, (long long)(s.r * s.r));
    st = mri_grid_check(c, err, "shuffle_patches", R, s.inverse ? s.outs : s.g.rows);
    if (st)
        return st;
    int64_t Q = s.inverse ? R / s.outs * s.g.rows : R / s.g.rows * s.outs;
    int64_t E = s.inverse ? D / (s.r * s.r) : D * s.r * s.r;
    return mri_infer(c, out, err, "shuffle_patches", "x:F[R,D] -> y:F[Q,E]",
                     MRI_GIVEN({ "Q", Q }, { "E", E }));
}

static mr_status shuffle_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), y = mri_out_view(c, out, 0);
    shuffle s = shuffle_of(c);
    int64_t D = s.inverse ? c->in[0]->dim[1] / (s.r * s.r) : c->in[0]->dim[1];
    int64_t N = c->in[0]->dim[0] / (s.inverse ? s.outs : s.g.rows);
    (void)err;
    for (int64_t n = 0; n < N; n++)
        for (int64_t p = 0; p < s.g.rows; p++) {
            int64_t k = p - s.g.first, row = k / s.wide, col = k % s.wide;
            int64_t apart = (n * s.g.rows + p) * D;
            int64_t joined = ((n * s.outs + row / s.r * (s.wide / s.r) + col / s.r) * s.r * s.r +
                              row % s.r * s.r + col % s.r) * D;
            for (int64_t d = 0; d < D; d++) {
                if (s.inverse)
                    mri_put(y, apart + d, p == s.g.at ? 0 : mri_get(x, joined + d));
                else if (p != s.g.at)
                    mri_put(y, joined + d, mri_get(x, apart + d));
            }
        }
    return 0;
}

static mr_status shuffle_vjp(const mr_vjp *v, mr_err *err)
{
    const mr_call *c = v->call;
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = mri_emit(v, "shuffle_patches", MR_IN(v->dout[0]),
                             MR_AT(mr_ai("grid", mr_attr_i(c, "grid", 1)),
                                   mr_ai("runs", mr_attr_i(c, "runs", 0)),
                                   mr_ai("ratio", mr_attr_i(c, "ratio", 1)),
                                   mr_as("class", mr_attr_s(c, "class", "none")),
                                   mr_ai("inverse", !mr_attr_i(c, "inverse", 0))));
    return 0;
}

static void shuffle_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 0, 0);
}

const mr_op_def mri_ops_shuffle_patches[] = {
    { MRI_OP, .id = "shuffle_patches",
      .doc = "squares of neighbouring patches as one row each, class rows dropped; pixel shuffle",
      .sig = "x -> y",
      .attrs = "grid:i runs:i=0 ratio:i=1 " MRI_CLASS_ATTR " inverse:i=0",
      .shape = shuffle_shape, .vjp = shuffle_vjp, .ref = shuffle_ref, .cost = shuffle_cost,
      .shard = "R D -> Q E |",
      .cases = MRI_CASES("x=F[34,6] @grid=4 @ratio=2 @class=last",
                         "x=F[20,7] @grid=3 @class=first", "x=F[8,24] @grid=4 @ratio=2 @inverse=1",
                         "x=F[36,33] @grid=6 @ratio=3", "x=F[18,5] @grid=3 @class=last @inverse=1",
                         "x=F[14,6] @grid=1 @runs=6 @class=first") },
    MRI_OPS_END
};
