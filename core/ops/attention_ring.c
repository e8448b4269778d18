/* SPDX-License-Identifier: Apache-2.0
 *
 * attention_ring.c - attention where keys and values pass round the ranks of a sequence (Ring
 * Attention, Liu et al. 2023): at step s a rank has those of rank index - s. What each step gives
 * (attention.part) is joined by log-sum-exp, own keys first, then as they come:
 *
 *     attention.merge   lse = ln(e^la + e^lb),  o = e^(la - lse) oa + e^(lb - lse) ob
 *     attention.ring    o of all steps, rounded to the dtype of q
 *
 * The gradient of attention.ring goes round again from o and lse alone: k and v as before, and with
 * each the sums of its dk and dv, in f32, which N steps bring home. The forward's parts have no
 * gradient of their own, so nothing of them is saved. Both ways a transfer stands before the step
 * that can run beside it, and two blocks of other ranks' keys are there at a time, one in use, one
 * under way.
 */
#include "core/ops/ring.h"

/* ---- attention.merge ------------------------------------------------------------------------ */
static mr_status merge_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const mr_type *l = mri_in(c, 1);
    int64_t H = l->rank ? mr_last(l) : 0;
    if (H < 1 || mr_last(c->in[0]) % H)
        return mri_op_fail(err, "attention.merge", "rows of %lld values are not of %lld heads",
                           (long long)mr_last(c->in[0]), (long long)H);
    return mri_infer(c, out, err, "attention.merge",
                     "oa:F[T,D] la:F[T,H] ob:F[T,D] lb:F[T,H] -> o:F[T,D] lse:F[T,H]", NULL);
}

static mr_status merge_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view oa = mri_in_view(c, in, 0), la = mri_in_view(c, in, 1), ob = mri_in_view(c, in, 2);
    mri_view lb = mri_in_view(c, in, 3), o = mri_out_view(c, out, 0), l = mri_out_view(c, out, 1);
    int64_t rows = mr_numel(c->in[1]), C = mr_numel(c->in[0]) / (rows ? rows : 1);
    (void)err;
    for (int64_t r = 0; r < rows; r++) {
        double a = mri_get(la, r), b = mri_get(lb, r), max = fmax(a, b);
        double wa = a == -INFINITY ? 0 : exp(a - max), wb = b == -INFINITY ? 0 : exp(b - max);
        double sum = wa + wb;
        for (int64_t i = r * C; i < (r + 1) * C; i++)
            mri_put(o, i, sum == 0 ? 0 : (wa * mri_get(oa, i) + wb * mri_get(ob, i)) / sum);
        mri_put(l, r, max + log(sum));
    }
    return 0;
}

static void merge_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 3 * (double)mr_numel(c->in[0]), 0);
}

/* ---- attention.ring ------------------------------------------------------------------------- */
static mr_status ring_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    int64_t N = mr_attr_i(c, "ranks", 1), n = mr_attr_i(c, "index", 0);
    bool alone = !mri_in(c, 4);
    if (N < 1 || n < 0 || n >= N)
        return mri_op_fail(err, "attention.ring", "index is %lld of %lld ranks", (long long)n,
                           (long long)N);
    if (alone != !mri_in(c, 5) || (alone && N > 1))
        return mri_op_fail(err, "attention.ring", "of %lld ranks acc and lse must be there",
                           (long long)N);
    return mri_heads_infer(c, out, err, "attention.ring", 2,
                           "q:F[T,H*C] k:F[T,G*C] v:F[T,G*V] seq_start:i32[T] acc:S[T,H*V] "
                           "lse:S[T,H] -> o:F[T,H*V]");
}

/* Without acc: a ring of one, which has no steps to join; its one is made here. */
static mr_status ring_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view acc = mri_in_view(c, in, 4), o = mri_out_view(c, out, 0);
    if (acc.kind) {
        for (int64_t i = 0; i < mr_numel(c->out[0]); i++)
            mri_put(o, i, mri_get(acc, i));
        return 0;
    }
    mr_type lse = mr_type2(mri_stat_dtype(c->in[0]), c->in[0]->dim[0], mr_attr_i(c, "heads", 1));
    const mr_type *types[2] = { c->out[0], &lse };
    mr_buf both[2] = { out[0], { mri_alloc(mr_bytes(&lse)), NULL } };
    mr_call part = *c;
    part.n_in = 4;
    part.n_out = 2;
    part.out = types;
    mr_status st = mri_attend_part(&part, in, both, err);
    free(both[1].data);
    return st;
}

static void ring_cost(const mr_call *c, mr_cost *cost)
{
    bool alone = !mri_in(c, 4);
    cost->flops = 0;
    cost->bytes = (double)mr_bytes(c->out[0]) + (double)mr_bytes(c->in[alone ? 0 : 4]);
}

/* ---- what is emitted ------------------------------------------------------------------------ */
static bool is_of_part(const char *key)
{
    static const char *const others[] = { "group", "nope_dim", "inv_freq", "factor" };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!strcmp(key, others[i]))
            return false;
    return true;
}

mri_ring mri_ring_of(const mr_vjp *v)
{
    const mr_call *c = v->call;
    mri_ring r = { .v = v, .ranks = mr_attr_i(c, "ranks", 1), .index = mr_attr_i(c, "index", 0),
                   .dtype = mri_dtype_name(c->in[0]->dtype), .acc = mri_stat_dtype(c->in[0]) };
    for (uint32_t i = 0; i < c->n_attr && r.n_at < 15; i++)
        if (is_of_part(c->attr[i].key))
            r.at[r.n_at++] = c->attr[i];
    r.send[0] = mr_as("group", mr_attr_s(c, "group", "cp"));
    r.send[1] = mr_ai("ranks", r.ranks);
    r.send[2] = mr_ai("index", r.index);
    r.send[3] = mr_ai("by", 1);
    return r;
}

mr_val mri_ring_pass(const mri_ring *r, mr_val x)
{
    return r->ranks == 1 ? x : mri_emit(r->v, "comm.shift", &x, 1, r->send, 4);
}

mr_val mri_ring_sum(const mri_ring *r, mr_val a, mr_val b)
{
    return a ? mri_emit(r->v, "add", MR_IN(a, b), NULL, 0) : b;
}

mr_val mri_ring_cast(const mri_ring *r, mr_val x, const char *dtype)
{
    return mri_emit(r->v, "cast", MR_IN(x), MR_AT(mr_as("dtype", dtype)));
}

void mri_ring_part(const mri_ring *r, int64_t s, const mr_val kv[2], mr_val start, mr_val lse,
                   mr_val d[3])
{
    mr_attr at[16];
    memcpy(at, r->at, r->n_at * sizeof *at);
    at[r->n_at] = mr_ai("from", (r->index - s + r->ranks) % r->ranks);
    mri_emit_n(r->v, d, 3, "attention.part.bwd",
               MR_IN(r->v->dout[0], r->v->in[0], kv[0], kv[1], r->v->out[0], lse, start), at,
               r->n_at + 1);
}

mr_val mri_ring_lse(const mri_ring *r, const mr_val kv[2], mr_val start)
{
    mr_val both[2] = { 0 };
    mri_emit_n(r->v, both, 2, "attention.part", MR_IN(r->v->in[0], kv[0], kv[1], start), r->at,
               r->n_at);
    return both[1];
}

static mr_status ring_vjp(const mr_vjp *v, mr_err *err)
{
    mri_ring r = mri_ring_of(v);
    mr_val kv[2] = { v->in[1], v->in[2] }, lse = mri_val_in(v, 5), sums[3] = { 0 };
    (void)err;
    if (!v->dout[0])
        return 0;
    lse = lse ? lse : mri_ring_lse(&r, kv, v->in[3]);
    for (int64_t s = 0; s < r.ranks; s++) {
        mr_val next[2] = { 0 }, d[3] = { 0 };
        for (uint32_t i = 0; i < 2 && s + 1 < r.ranks; i++)
            next[i] = mri_ring_pass(&r, kv[i]);
        mri_ring_part(&r, s, kv, v->in[3], lse, d);
        sums[0] = mri_ring_sum(&r, sums[0], d[0]);
        for (uint32_t i = 1; i < 3; i++) /* these are of the keys: they go where those go */
            sums[i] = mri_ring_pass(&r, mri_ring_sum(&r, sums[i], d[i]));
        kv[0] = next[0];
        kv[1] = next[1];
    }
    for (uint32_t i = 0; i < 3; i++)
        if (mri_need(v, i))
            v->din[i] = mri_ring_cast(&r, sums[i], r.dtype);
    return 0;
}

const mr_op_def mri_ops_attention_ring[] = {
    { MRI_OP, .flags = MR_OP_NO_VJP | MR_OP_INPLACE0, .id = "attention.merge",
      .doc = "attention of two sets of keys, from that of each and its log-sum-exp",
      .sig = "oa la ob lb -> o lse", .shape = merge_shape, .ref = merge_ref, .cost = merge_cost,
      .shard = "T O, T H, T O, T H -> T O, T H | T:map",
      .cases = MRI_CASES("oa=S[7,12] la=S[7,3] ob=S[7,12] lb=S[7,3]",
                         "oa=S[33,40] la=S[33,1] ob=S[33,40] lb=S[33,1]") },
    { MRI_OP, .id = "attention.ring",
      .doc = "attention of sequences that ranks share, joined from its parts; the gradient goes "
             "round the ranks; Liu et al. 2023",
      .sig = "q k v seq_start acc? lse? -> o",
      .attrs = MRI_HEADS_ATTRS " ranks:i=1 index:i=0 group:s=cp", .shape = ring_shape,
      .vjp = ring_vjp, .ref = ring_ref, .cost = ring_cost,
      .cases = MRI_CASES(
          "q=F[12,8] k=F[12,4] v=F[12,6] seq_start=i32[12]start:6 acc=- lse=- @heads=2 @kv_heads=1 "
          "@head_dim=4 @seq=6",
          "q=F[16,6] k=F[16,6] v=F[16,4] seq_start=i32[16]zero @heads=2 @kv_heads=2 @head_dim=3 "
          "@seq=16 @chunk=5") },
    MRI_OPS_END
};
