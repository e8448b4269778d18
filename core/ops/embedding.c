/* SPDX-License-Identifier: Apache-2.0
 *
 * embedding.c - y[t] = table[ids[t]], and its gradient, dtable[ids[t]] += dy[t] with t
 * ascending, so that repeated ids add up in one order. The row of id `skip` (padding) gets none.
 */
#include "core/ops/common.h"

static mr_status bad_id(mr_err *err, const char *op, int64_t t, int64_t id, int64_t V)
{
    return mr_fail(err, MR_E_ARG, MR_BLAME_USER, "%s: ids[%lld] is %lld, the table has %lld rows",
                   op, (long long)t, (long long)id, (long long)V);
}

#define ATTRS "skip:i=-1"

static mr_status embedding_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "embedding", "ids:i32[T] table:F[V,D] -> y:F[T,D]", NULL);
}

static mr_status embedding_vjp(const mr_vjp *v, mr_err *err)
{
    mr_val dtable;
    (void)err;
    if (v->dout[0] && (dtable = mri_main_grad(v, 1)))
        mri_emit_n(v, NULL, 0, "embedding.bwd", MR_IN(v->dout[0], v->in[0], dtable),
                   MR_AT(mr_ai("skip", mr_attr_i(v->call, "skip", -1))));
    return 0;
}

static mr_status embedding_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view ids = mri_in_view(c, in, 0), table = mri_in_view(c, in, 1);
    mri_view y = mri_out_view(c, out, 0);
    int64_t T = c->in[0]->dim[0], V = c->in[1]->dim[0], D = c->in[1]->dim[1];
    for (int64_t t = 0; t < T; t++) {
        int64_t id = mri_get_i(ids, t);
        if (id < 0 || id >= V)
            return bad_id(err, "embedding", t, id, V);
        for (int64_t d = 0; d < D; d++)
            mri_put(y, t * D + d, mri_get(table, id * D + d));
    }
    return 0;
}

/* An upper bound, as ids are data: reads T rows of the table, but none twice. */
static void embedding_cost(const mr_call *c, mr_cost *cost)
{
    cost->flops = 0;
    cost->bytes = (double)mr_bytes(c->in[0]) + (double)mr_bytes(c->out[0]) +
                  fmin((double)mr_bytes(c->out[0]), (double)mr_bytes(c->in[1]));
}

static mr_status bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "embedding.bwd", "dy:F[T,D] ids:i32[T] dtable:S[V,D] ->", NULL);
}

static mr_status bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view dy = mri_in_view(c, in, 0), ids = mri_in_view(c, in, 1);
    mri_view dtable = mri_in_view(c, in, 2);
    int64_t T = c->in[0]->dim[0], D = c->in[0]->dim[1], V = c->in[2]->dim[0];
    int64_t skip = mr_attr_i(c, "skip", -1);
    (void)out;
    for (int64_t t = 0; t < T; t++) {
        int64_t id = mri_get_i(ids, t);
        if (id < 0 || id >= V)
            return bad_id(err, "embedding.bwd", t, id, V);
        for (int64_t d = 0; d < D && id != skip; d++)
            mri_acc(dtable, id * D + d, mri_get(dy, t * D + d));
    }
    return 0;
}

/* An upper bound, as ids are data: all tokens have different ids. */
static void bwd_cost(const mr_call *c, mr_cost *cost)
{
    double T = (double)c->in[0]->dim[0], V = (double)c->in[2]->dim[0];
    double row = (double)c->in[2]->dim[1] * (double)mr_dtype_bytes(c->in[2]->dtype);
    cost->flops = (double)mr_numel(c->in[0]);
    cost->bytes = (double)mr_bytes(c->in[0]) + (double)mr_bytes(c->in[1]) + 2 * fmin(T, V) * row;
}

const mr_op_def mri_ops_embedding[] = {
    { MRI_OP, .id = "embedding", .doc = "y[t] = table[ids[t]]",
      .sig = "ids table -> y", .attrs = ATTRS, .shape = embedding_shape, .vjp = embedding_vjp,
      .ref = embedding_ref, .cost = embedding_cost, .shard = "T, V D -> T D | T:map D:map",
      .cases = MRI_CASES("ids=i32[8]<5 table=F[5,6]", "ids=i32[1]<1 table=F[1,3]",
                         "ids=i32[129]<17 table=F[17,7]", "ids=i32[6]zero table=F[3,4]") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "embedding.bwd",
      .doc = "dtable[ids[t]] += dy[t], t ascending, where ids[t] is not skip",
      .sig = "dy ids dtable! ->", .attrs = ATTRS, .shape = bwd_shape, .ref = bwd_ref,
      .cost = bwd_cost,
      .shard = "T D, T, V D -> | T:sum D:map",
      .cases = MRI_CASES("dy=F[129,6] ids=i32[129]<17 dtable=S[17,6]",
                         "dy=F[4,6] ids=i32[4]zero dtable=S[3,6]",
                         "dy=F[129,6] ids=i32[129]<5 dtable=S[5,6] @skip=3") },
    MRI_OPS_END
};
