/* SPDX-License-Identifier: Apache-2.0
 *
 * vocab_parts.c - embedding and cross-entropy where each rank has a part of the vocabulary, the
 * ids first .. first + V - 1 of `vocab`:
 *     embedding.part        y[t] = table[ids[t] - first], or zeros: the parts' sum is embedding's
 *     cross_entropy.part    stats[t] = (lse of this part's logits, the target's logit or 0)
 *     cross_entropy.merge   from every part's stats, one block of rows after the other:
 *                           lse = ln sum_r exp(lse_r), nll = lse - sum_r target_r,
 *                           loss = sum_t weight nll; a target outside the vocabulary has nll 0.
 * Backward, part by part:  dlogits = dlse_r exp(logits - lse_r) + dtarget_r onehot(target - first).
 * Two numbers a token cross the ranks, where gathering logits would send V.
 */
#include "core/ops/common.h"

static mr_status check_part(const mr_call *c, const char *op, int64_t V, mr_err *err)
{
    int64_t first = mr_attr_i(c, "first", 0), vocab = mr_attr_i(c, "vocab", 0);
    if (first >= 0 && V > 0 && vocab >= V && first <= vocab - V)
        return 0;
    return mri_op_fail(err, op, "first is %lld, the part of %lld must lie in a vocabulary of %lld",
                       (long long)first, (long long)V, (long long)vocab);
}

#define PART_ATTRS "first:i vocab:i"

/* ---- embedding.part ------------------------------------------------------------------------- */
static mr_status embedding_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = mri_infer(c, out, err, "embedding.part", "ids:i32[T] table:F[V,D] -> y:F[T,D]",
                             NULL);
    return st ? st : check_part(c, "embedding.part", c->in[1]->dim[0], err);
}

static mr_status embedding_vjp(const mr_vjp *v, mr_err *err)
{
    mr_val dtable;
    (void)err;
    if (v->dout[0] && (dtable = mri_main_grad(v, 1)))
        mri_emit_n(v, NULL, 0, "embedding.part.bwd", MR_IN(v->dout[0], v->in[0], dtable),
                   v->call->attr, v->call->n_attr);
    return 0;
}

/* -> the row of the part that has id t, or -1 */
static mr_status row_of(const mr_call *c, mri_view ids, int64_t t, int64_t V, int64_t *row,
                        mr_err *err)
{
    int64_t id = mri_get_i(ids, t), vocab = mr_attr_i(c, "vocab", 0);
    if (id < 0 || id >= vocab)
        return mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                       "embedding: ids[%lld] is %lld, the table has %lld rows", (long long)t,
                       (long long)id, (long long)vocab);
    *row = id - mr_attr_i(c, "first", 0);
    if (*row < 0 || *row >= V)
        *row = -1;
    return 0;
}

static mr_status embedding_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view ids = mri_in_view(c, in, 0), table = mri_in_view(c, in, 1);
    mri_view y = mri_out_view(c, out, 0);
    int64_t D = c->in[1]->dim[1], row;
    for (int64_t t = 0; t < c->in[0]->dim[0]; t++) {
        mr_status st = row_of(c, ids, t, c->in[1]->dim[0], &row, err);
        if (st)
            return st;
        for (int64_t d = 0; d < D; d++)
            mri_put(y, t * D + d, row < 0 ? 0 : mri_get(table, row * D + d));
    }
    return 0;
}

static void moves_cost(const mr_call *c, mr_cost *cost)
{
    const mr_type *rows = c->n_out ? c->out[0] : c->in[0];
    cost->flops = 0;
    cost->bytes = 2 * (double)mr_bytes(rows);
}

static mr_status embedding_bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = mri_infer(c, out, err, "embedding.part.bwd",
                             "dy:F[T,D] ids:i32[T] dtable:S[V,D] ->", NULL);
    return st ? st : check_part(c, "embedding.part.bwd", c->in[2]->dim[0], err);
}

static mr_status embedding_bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out,
                                   mr_err *err)
{
    mri_view dy = mri_in_view(c, in, 0), ids = mri_in_view(c, in, 1);
    mri_view dtable = mri_in_view(c, in, 2);
    int64_t D = c->in[0]->dim[1], skip = mr_attr_i(c, "skip", -1), row;
    (void)out;
    for (int64_t t = 0; t < c->in[0]->dim[0]; t++) {
        mr_status st = row_of(c, ids, t, c->in[2]->dim[0], &row, err);
        if (st)
            return st;
        for (int64_t d = 0; d < D && row >= 0 && mri_get_i(ids, t) != skip; d++)
            mri_acc(dtable, row * D + d, mri_get(dy, t * D + d));
    }
    return 0;
}

/* ---- cross_entropy.part --------------------------------------------------------------------- */
static mr_status part_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = mri_infer(c, out, err, "cross_entropy.part",
                             "logits:F[T,V] targets:i32[T] -> stats:S[T,2]", NULL);
    return st ? st : check_part(c, "cross_entropy.part", c->in[0]->dim[1], err);
}

static mr_status part_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = mri_emit(v, "cross_entropy.part.bwd",
                             MR_IN(v->in[0], v->dout[0], v->in[1], v->out[0]), v->call->attr,
                             v->call->n_attr);
    return 0;
}

static mr_status part_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), target = mri_in_view(c, in, 1);
    mri_view stats = mri_out_view(c, out, 0);
    int64_t V = c->in[0]->dim[1], first = mr_attr_i(c, "first", 0);
    (void)err;
    for (int64_t t = 0; t < c->in[0]->dim[0]; t++) {
        double max = -INFINITY, sum = 0;
        int64_t y = mri_get_i(target, t) - first;
        for (int64_t i = 0; i < V; i++)
            max = fmax(max, mri_get(x, t * V + i));
        for (int64_t i = 0; i < V; i++)
            sum += exp(mri_get(x, t * V + i) - max);
        mri_put(stats, 2 * t, max + log(sum));
        mri_put(stats, 2 * t + 1, y >= 0 && y < V ? mri_get(x, t * V + y) : 0);
    }
    return 0;
}

static mr_status part_bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = mri_infer(c, out, err, "cross_entropy.part.bwd",
                             "logits:F[T,V] dstats:S[T,2] targets:i32[T] stats:S[T,2] -> "
                             "dlogits:F[T,V]", NULL);
    return st ? st : check_part(c, "cross_entropy.part.bwd", c->in[0]->dim[1], err);
}

static mr_status part_bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), d = mri_in_view(c, in, 1), target = mri_in_view(c, in, 2);
    mri_view stats = mri_in_view(c, in, 3), dx = mri_out_view(c, out, 0);
    int64_t V = c->in[0]->dim[1], first = mr_attr_i(c, "first", 0);
    (void)err;
    for (int64_t t = 0; t < c->in[0]->dim[0]; t++) {
        double dlse = mri_get(d, 2 * t), dtarget = mri_get(d, 2 * t + 1), lse = mri_get(stats, 2 * t);
        int64_t y = mri_get_i(target, t) - first;
        for (int64_t i = 0; i < V; i++) /* no gradient is 0 even where logits overflow */
            mri_put(dx, t * V + i,
                    (dlse == 0 ? 0 : dlse * exp(mri_get(x, t * V + i) - lse)) +
                        (i == y ? dtarget : 0));
    }
    return 0;
}

static void logits_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 4.0 * (double)mr_numel(c->in[0]), 0);
}

/* ---- cross_entropy.merge -------------------------------------------------------------------- */
#define MERGE_ATTRS "ranks:i vocab:i"

static mr_status merge_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "cross_entropy.merge",
                     "stats:F[N*T,2] targets:i32[T] weight:G[T] -> loss:S[1] nll:S[T] lse:S[T]",
                     MRI_GIVEN({ "N", mr_attr_i(c, "ranks", 1) },
                               { "T", mri_in(c, 1) && c->in[1]->rank ? c->in[1]->dim[0] : 0 }));
}

static mr_status merge_vjp(const mr_vjp *v, mr_err *err)
{
    if (v->dout[1] || v->dout[2])
        return mr_fail(err, MR_E_NO_GRADIENT, MR_BLAME_PLUGIN,
                       "cross_entropy: a gradient flows into %s, only loss carries one",
                       v->dout[1] ? "nll" : "lse");
    if (v->dout[0] && mri_need(v, 2))
        return mr_fail(err, MR_E_NO_GRADIENT, MR_BLAME_PLUGIN,
                       "cross_entropy: weight is no differentiable operand");
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = mri_emit(v, "cross_entropy.merge.bwd",
                             MR_IN(v->dout[0], v->in[0], v->in[1], v->in[2], v->out[2]),
                             v->call->attr, v->call->n_attr);
    return 0;
}

static bool counts(const mr_call *c, mri_view target, int64_t t)
{
    int64_t y = mri_get_i(target, t);
    return y >= 0 && y < mr_attr_i(c, "vocab", 0);
}

static mr_status merge_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view s = mri_in_view(c, in, 0), target = mri_in_view(c, in, 1);
    mri_view weight = mri_in_view(c, in, 2), loss = mri_out_view(c, out, 0);
    mri_view nll = mri_out_view(c, out, 1), lse = mri_out_view(c, out, 2);
    int64_t T = c->in[1]->dim[0], N = mr_attr_i(c, "ranks", 1);
    double total = 0;
    (void)err;
    for (int64_t t = 0; t < T; t++) {
        double max = -INFINITY, sum = 0, at = 0, n = 0;
        for (int64_t r = 0; r < N; r++)
            max = fmax(max, mri_get(s, 2 * (r * T + t)));
        for (int64_t r = 0; r < N; r++) {
            sum += exp(mri_get(s, 2 * (r * T + t)) - max);
            at += mri_get(s, 2 * (r * T + t) + 1);
        }
        if (counts(c, target, t)) {
            n = max + log(sum) - at;
            total += mri_get(weight, t) * n;
        }
        mri_put(nll, t, n);
        mri_put(lse, t, max + log(sum));
    }
    mri_put(loss, 0, total);
    return 0;
}

static mr_status merge_bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "cross_entropy.merge.bwd",
                     "dloss:F[1] stats:F[N*T,2] targets:i32[T] weight:G[T] lse:F[T] -> "
                     "dstats:F[N*T,2]",
                     MRI_GIVEN({ "N", mr_attr_i(c, "ranks", 1) },
                               { "T", mri_in(c, 2) && c->in[2]->rank ? c->in[2]->dim[0] : 0 }));
}

static mr_status merge_bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view dloss = mri_in_view(c, in, 0), s = mri_in_view(c, in, 1);
    mri_view target = mri_in_view(c, in, 2), weight = mri_in_view(c, in, 3);
    mri_view lse = mri_in_view(c, in, 4), d = mri_out_view(c, out, 0);
    int64_t T = c->in[2]->dim[0], N = mr_attr_i(c, "ranks", 1);
    (void)err;
    for (int64_t t = 0; t < T; t++) {
        double g = counts(c, target, t) ? mri_get(dloss, 0) * mri_get(weight, t) : 0;
        for (int64_t r = 0; r < N; r++) {
            int64_t i = 2 * (r * T + t);
            mri_put(d, i, g == 0 ? 0 : g * exp(mri_get(s, i) - mri_get(lse, t)));
            mri_put(d, i + 1, -g);
        }
    }
    return 0;
}

static void merge_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 8.0 * (double)mr_numel(c->in[0]), 0);
}

const mr_op_def mri_ops_vocab_parts[] = {
    { MRI_OP, .id = "embedding.part", .doc = "y[t] = table[ids[t] - first], zeros outside the part",
      .sig = "ids table -> y", .attrs = PART_ATTRS " skip:i=-1", .shape = embedding_shape,
      .vjp = embedding_vjp, .ref = embedding_ref, .cost = moves_cost,
      .shard = "T, V D -> T D | T:map D:map",
      .cases = MRI_CASES("ids=i32[8]<12 table=F[6,5] @first=6 @vocab=12",
                         "ids=i32[129]<40 table=F[10,7] @first=10 @vocab=40") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "embedding.part.bwd",
      .doc = "dtable[ids[t] - first] += dy[t], t ascending, of the ids in the part",
      .sig = "dy ids dtable! ->", .attrs = PART_ATTRS " skip:i=-1", .shape = embedding_bwd_shape,
      .ref = embedding_bwd_ref, .cost = moves_cost, .shard = "T D, T, V D -> | T:sum D:map",
      .cases = MRI_CASES("dy=F[129,6] ids=i32[129]<34 dtable=S[17,6] @first=17 @vocab=34",
                         "dy=F[40,6] ids=i32[40]<10 dtable=S[5,6] @first=0 @vocab=10 @skip=3") },
    { MRI_OP, .id = "cross_entropy.part", .doc = "this part's lse, and the target's logit or 0",
      .sig = "logits targets -> stats", .attrs = PART_ATTRS, .shape = part_shape, .vjp = part_vjp,
      .ref = part_ref, .cost = logits_cost, .shard = "T ., T -> T . | T:map",
      .cases = MRI_CASES("logits=F[8,6] targets=i32[8]<12 @first=6 @vocab=12",
                         "logits=F[67,129] targets=i32[67]<258 @first=0 @vocab=258",
                         "logits=F[3,9] targets=i32[3]{-1,27,20} @first=18 @vocab=27") },
    { MRI_OP, .flags = MR_OP_NO_VJP | MR_OP_INPLACE0, .id = "cross_entropy.part.bwd",
      .doc = "dlogits = dlse exp(logits - lse) + dtarget onehot(target - first)",
      .sig = "logits dstats targets stats -> dlogits", .attrs = PART_ATTRS,
      .shape = part_bwd_shape, .ref = part_bwd_ref, .cost = logits_cost,
      .shard = "T ., T ., T, T . -> T . | T:map" },
    { MRI_OP, .id = "cross_entropy.merge", .doc = "loss = sum weight (lse - target) over all parts",
      .sig = "stats targets weight -> loss nll lse", .attrs = MERGE_ATTRS, .shape = merge_shape,
      .vjp = merge_vjp, .ref = merge_ref, .cost = merge_cost,
      .cases = MRI_CASES("stats=S[16,2] targets=i32[8]<12 weight=S[8]pos @ranks=2 @vocab=12",
                         "stats=S[12,2] targets=i32[3]{-1,9,4} weight=S[3]pos @ranks=4 @vocab=9",
                         "stats=S[134,2] targets=i32[67]<9 weight=S[67]pos @ranks=2 @vocab=9") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "cross_entropy.merge.bwd",
      .doc = "dlse_r = dloss weight exp(lse_r - lse), dtarget_r = -dloss weight",
      .sig = "dloss stats targets weight lse -> dstats", .attrs = MERGE_ATTRS,
      .shape = merge_bwd_shape, .ref = merge_bwd_ref, .cost = merge_cost },
    MRI_OPS_END
};
