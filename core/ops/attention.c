/* SPDX-License-Identifier: Apache-2.0
 *
 * attention.c - causal grouped-query attention over packed sequences, and its gradient.
 * Token t sees j if s <= j <= t with s = seq_start[t] and, if chunk, both lie in the same
 * chunk of the sequence, (t-s)/chunk == (j-s)/chunk. With causal = 0 it sees all of its sequence
 * (pictures), s <= j < s + seq with s = t - t mod seq. The loops are in attend.c.
 *
 * qkv_attention is the same of one operand whose rows are q, k and v side by side, as one product
 * of the three makes them; its gradient is such an operand too.
 */
#include "core/ops/attend.h"

static mr_status seen(const mri_attend *a, int64_t t, int64_t *first, int64_t *last, mr_err *err)
{
    const mri_heads *n = &a->n;
    int64_t s = a->start.kind ? mri_get_i(a->start, t) : t / n->seq * n->seq;
    if (!n->packed && s != t / n->seq * n->seq)
        return mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN,
                       "%s: seq_start[%lld] is %lld, must be %lld: packed = 0 promises sequences "
                       "of %lld", a->op, (long long)t, (long long)s,
                       (long long)(t / n->seq * n->seq), (long long)n->seq);
    if (s < 0 || s > t)
        return mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN,
                       "%s: seq_start[%lld] is %lld, must be in 0..%lld",
                       a->op, (long long)t, (long long)s, (long long)t);
    *first = mri_first_seen(n, s, t);
    *last = mri_last_seen(n, s, t);
    return 0;
}

static mri_attend use_of(const char *op, const mri_heads *n, const mri_qkv *x, int64_t T,
                         mri_view start)
{
    return (mri_attend){ .op = op, .n = *n, .queries = T, .keys = T, .x = *x, .start = start,
                         .seen = seen };
}

static mr_status attention_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = mri_heads_infer(c, out, err, "attention", 2,
                                   "q:F[T,H*C] k:F[T,G*C] v:F[T,G*V] seq_start:i32[T] -> "
                                   "o:F[T,H*V] lse:S[T,H]");
    return st ? st : mri_heads_promise(c, 2, 3, err, "attention");
}

static mr_status attention_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    return mri_attend_vjp(v, "attention.bwd");
}

static mr_status forward(const char *op, const mri_heads *n, const mr_call *c, const mri_qkv *x,
                         mri_view start, const mr_buf *out, mr_err *err)
{
    mri_attend a = use_of(op, n, x, c->in[0]->dim[0], start);
    return mri_attend_forward(&a, mri_out_view(c, out, 0), mri_out_view(c, out, 1), err);
}

static mr_status attention_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_heads n = mri_heads_of(c, 2);
    mri_qkv x = mri_qkv_apart(&n, mri_in_view(c, in, 0), mri_in_view(c, in, 1),
                              mri_in_view(c, in, 2));
    return forward("attention", &n, c, &x, mri_in_view(c, in, 3), out, err);
}

static void attention_cost(const mr_call *c, mr_cost *cost)
{
    mri_heads n = mri_heads_of(c, 2);
    double pairs = (double)n.H * mri_pairs(&n, c->in[0]->dim[0]);
    mri_cost(c, cost, pairs * 2 * (double)(n.C + n.Cv), 0);
}

static mr_status bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = mri_heads_infer(c, out, err, "attention.bwd", 3,
                                   "do:F[T,H*V] q:F[T,H*C] k:F[T,G*C] v:F[T,G*V] o:F[T,H*V] "
                                   "lse:S[T,H] seq_start:i32[T] -> dq:F[T,H*C] dk:F[T,G*C] "
                                   "dv:F[T,G*V]");
    return st ? st : mri_heads_promise(c, 3, 6, err, "attention.bwd");
}

static mr_status bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_heads n = mri_heads_of(c, 3);
    mri_qkv x = mri_qkv_apart(&n, mri_in_view(c, in, 1), mri_in_view(c, in, 2),
                              mri_in_view(c, in, 3));
    mri_qkv d = mri_qkv_apart(&n, mri_out_view(c, out, 0), mri_out_view(c, out, 1),
                              mri_out_view(c, out, 2));
    mri_attend a = use_of("attention.bwd", &n, &x, c->in[0]->dim[0], mri_in_view(c, in, 6));
    return mri_attend_backward(&a, mri_in_view(c, in, 0), mri_in_view(c, in, 4),
                               mri_in_view(c, in, 5), &d, err);
}

/* five products where forward has two: z again, dp, dv, dq, dk */
static void bwd_cost(const mr_call *c, mr_cost *cost)
{
    mri_heads n = mri_heads_of(c, 3);
    double pairs = (double)n.H * mri_pairs(&n, c->in[0]->dim[0]);
    mri_cost(c, cost, pairs * 2 * (double)(3 * n.C + 2 * n.Cv), 0);
}

/* ---- q, k and v side by side ---------------------------------------------------------------- */
static mr_status beside_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mri_heads n = mri_heads_beside(c, 0);
    mr_status st = mri_heads_infer_as(&n, c, out, err, "qkv_attention",
                                      "qkv:F[T,W] seq_start:i32[T] -> o:F[T,H*V] lse:S[T,H]");
    return st ? st : mri_heads_promise(c, 0, 1, err, "qkv_attention");
}

static mr_status beside_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        mri_emit_n(v, &v->din[0], 1, "qkv_attention.bwd",
                   MR_IN(v->dout[0], v->in[0], v->out[0], v->out[1], v->in[1]), v->call->attr,
                   v->call->n_attr);
    return 0;
}

static mr_status beside_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_heads n = mri_heads_beside(c, 0);
    mri_qkv x = mri_qkv_beside(&n, mri_in_view(c, in, 0));
    return forward("qkv_attention", &n, c, &x, mri_in_view(c, in, 1), out, err);
}

static void beside_cost(const mr_call *c, mr_cost *cost)
{
    mri_heads n = mri_heads_beside(c, 0);
    double pairs = (double)n.H * mri_pairs(&n, c->in[0]->dim[0]);
    mri_cost(c, cost, pairs * 2 * (double)(n.C + n.Cv), 0);
}

static mr_status beside_bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mri_heads n = mri_heads_beside(c, 1);
    mr_status st = mri_heads_infer_as(&n, c, out, err, "qkv_attention.bwd",
                                      "do:F[T,H*V] qkv:F[T,W] o:F[T,H*V] lse:S[T,H] "
                                      "seq_start:i32[T] -> dqkv:F[T,W]");
    return st ? st : mri_heads_promise(c, 1, 4, err, "qkv_attention.bwd");
}

static mr_status beside_bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_heads n = mri_heads_beside(c, 1);
    mri_qkv x = mri_qkv_beside(&n, mri_in_view(c, in, 1));
    mri_qkv d = mri_qkv_beside(&n, mri_out_view(c, out, 0));
    mri_attend a = use_of("qkv_attention.bwd", &n, &x, c->in[0]->dim[0], mri_in_view(c, in, 4));
    return mri_attend_backward(&a, mri_in_view(c, in, 0), mri_in_view(c, in, 2),
                               mri_in_view(c, in, 3), &d, err);
}

static void beside_bwd_cost(const mr_call *c, mr_cost *cost)
{
    mri_heads n = mri_heads_beside(c, 1);
    double pairs = (double)n.H * mri_pairs(&n, c->in[0]->dim[0]);
    mri_cost(c, cost, pairs * 2 * (double)(3 * n.C + 2 * n.Cv), 0);
}

const mr_op_def mri_ops_attention[] = {
    { MRI_OP, .id = "attention",
      .doc = "o = softmax(scale q kᵀ, causal in its sequence and chunk) v; Vaswani et al. 2017, "
             "grouped queries of Ainslie et al. 2023",
      .sig = "q k v seq_start? -> o lse", .attrs = MRI_HEADS_ATTRS " causal:i=1",
      .shape = attention_shape, .vjp = attention_vjp, .ref = attention_ref, .cost = attention_cost,
      .shard = "T H, T H, T H, T -> T H, T H | H:map:heads,kv_heads",
      .cases = MRI_CASES(
          "q=F[8,16] k=F[8,8] v=F[8,8] seq_start=i32[8]zero @heads=4 @kv_heads=2 @head_dim=4",
          "q=F[1,3] k=F[1,3] v=F[1,5] seq_start=i32[1]zero @heads=1 @kv_heads=1 @head_dim=3",
          "q=F[67,12] k=F[67,6] v=F[67,10] seq_start=i32[67]start:23 @heads=4 @kv_heads=2 "
          "@head_dim=3 @scale=0.7",
          "q=F[33,18] k=F[33,6] v=F[33,6] seq_start=i32[33]start:19 @heads=3 @kv_heads=1 "
          "@head_dim=6 @chunk=8",
          "q=F[129,8] k=F[129,8] v=F[129,8] seq_start=i32[129]zero @heads=2 @kv_heads=2 "
          "@head_dim=4 @chunk=50",
          "q=F[12,8] k=F[12,4] v=F[12,4] seq_start=i32[12]start:4 @heads=2 @kv_heads=1 "
          "@head_dim=4 @seq=4 @packed=0",
          "q=F[99,24] k=F[99,12] v=F[99,6] seq_start=- @heads=4 @kv_heads=2 @head_dim=6 @seq=33 "
          "@packed=0 @causal=0",
          "q=F[170,16] k=F[170,16] v=F[170,16] seq_start=- @heads=2 @kv_heads=2 @head_dim=8 "
          "@seq=85 @packed=0 @causal=0") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "attention.bwd",
      .doc = "gradients of attention from o and lse; Dao et al. 2022",
      .sig = "do q k v o lse seq_start? -> dq dk dv", .attrs = MRI_HEADS_ATTRS " causal:i=1",
      .shape = bwd_shape, .ref = bwd_ref, .cost = bwd_cost,
      .shard = "T H, T H, T H, T H, T H, T H, T -> T H, T H, T H | H:map:heads,kv_heads" },
    { MRI_OP, .id = "qkv_attention",
      .doc = "attention of queries, keys and values that lie side by side in each row",
      .sig = "qkv seq_start? -> o lse", .attrs = MRI_HEADS_ATTRS " causal:i=1",
      .shape = beside_shape, .vjp = beside_vjp, .ref = beside_ref, .cost = beside_cost,
      .shard = "T W, T -> T O, T H |",
      .cases = MRI_CASES(
          "qkv=F[8,32] seq_start=i32[8]zero @heads=4 @kv_heads=2 @head_dim=4",
          "qkv=F[67,28] seq_start=i32[67]start:23 @heads=4 @kv_heads=2 @head_dim=3 @scale=0.7",
          "qkv=F[33,30] seq_start=i32[33]start:19 @heads=3 @kv_heads=1 @head_dim=6 @chunk=8",
          "qkv=F[12,16] seq_start=i32[12]start:4 @heads=2 @kv_heads=1 @head_dim=4 @seq=4 @packed=0",
          "qkv=F[99,42] seq_start=- @heads=4 @kv_heads=2 @head_dim=6 @seq=33 @packed=0 @causal=0") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "qkv_attention.bwd",
      .doc = "gradients of qkv_attention, side by side too",
      .sig = "do qkv o lse seq_start? -> dqkv", .attrs = MRI_HEADS_ATTRS " causal:i=1",
      .shape = beside_bwd_shape, .ref = beside_bwd_ref, .cost = beside_bwd_cost,
      .shard = "T O, T W, T O, T H, T -> T W |" },
    MRI_OPS_END
};
