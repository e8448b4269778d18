/* SPDX-License-Identifier: Apache-2.0
 *
 * attention.c - causal grouped-query attention over packed sequences, and its gradient.
 * Token t sees j if s <= j <= t with s = seq_start[t] and, if chunk, both lie in the same
 * chunk of the sequence, (t-s)/chunk == (j-s)/chunk. With causal = 0 it sees all of its sequence
 * (pictures), s <= j < s + seq with s = t - t mod seq. Per head, z_j = scale <q_t, k_j>:
 *     lse = ln Σ_j e^z_j,  p_j = e^(z_j - lse),  o = Σ_j p_j v_j.
 * Backward from o and lse alone (Dao et al. 2022): with dp_j = <do, v_j>, δ = <do, o>,
 *     ds_j = p_j (dp_j - δ),  dv_j += p_j do,  dq += scale ds_j k_j,  dk_j += scale ds_j q.
 */
#include "core/ops/heads.h"

static double dot(mri_view a, int64_t ia, mri_view b, int64_t ib, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += mri_get(a, ia + i) * mri_get(b, ib + i);
    return sum;
}

/* -> the first token of t's sequence */
static mr_status start_of(mri_view start, const mri_heads *n, const char *op, int64_t t,
                          int64_t *out, mr_err *err)
{
    int64_t s = *out = start.kind ? mri_get_i(start, t) : t / n->seq * n->seq;
    if (!n->packed && s != t / n->seq * n->seq)
        return mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN,
                       "%s: seq_start[%lld] is %lld, must be %lld: packed = 0 promises sequences "
                       "of %lld", op, (long long)t, (long long)s,
                       (long long)(t / n->seq * n->seq), (long long)n->seq);
    if (s >= 0 && s <= t)
        return 0;
    return mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN,
                   "%s: seq_start[%lld] is %lld, must be in 0..%lld",
                   op, (long long)t, (long long)s, (long long)t);
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
    mr_val d[3] = { 0 };
    (void)err;
    if (!v->dout[0] || (!mri_need(v, 0) && !mri_need(v, 1) && !mri_need(v, 2)))
        return 0;
    mri_emit_n(v, d, 3, "attention.bwd",
               MR_IN(v->dout[0], v->in[0], v->in[1], v->in[2], v->out[0], v->out[1], v->in[3]),
               v->call->attr, v->call->n_attr);
    for (uint32_t i = 0; i < 3; i++)
        if (mri_need(v, i))
            v->din[i] = d[i];
    return 0;
}

static mr_status attention_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view q = mri_in_view(c, in, 0), k = mri_in_view(c, in, 1), v = mri_in_view(c, in, 2);
    mri_view start = mri_in_view(c, in, 3);
    mri_view o = mri_out_view(c, out, 0), lse = mri_out_view(c, out, 1);
    mri_heads n = mri_heads_of(c, 2);
    int64_t T = c->in[0]->dim[0];
    double *z = mri_alloc((size_t)T * sizeof *z);
    mr_status st = 0;
    for (int64_t t = 0; t < T; t++) {
        int64_t s;
        MR_TRY(start_of(start, &n, "attention", t, &s, err));
        int64_t first = mri_first_seen(&n, s, t), last = mri_last_seen(&n, s, t);
        for (int64_t h = 0; h < n.H; h++) {
            int64_t g = h / (n.H / n.G);
            double max = -INFINITY, sum = 0;
            for (int64_t j = first; j <= last; j++) {
                z[j] = n.scale * dot(q, (t * n.H + h) * n.C, k, (j * n.G + g) * n.C, n.C);
                max = fmax(max, z[j]);
            }
            for (int64_t j = first; j <= last; j++)
                sum += z[j] = exp(z[j] - max);
            mri_put(lse, t * n.H + h, max + log(sum));
            for (int64_t i = 0; i < n.Cv; i++) {
                double y = 0;
                for (int64_t j = first; j <= last; j++)
                    y += z[j] * mri_get(v, (j * n.G + g) * n.Cv + i);
                mri_put(o, (t * n.H + h) * n.Cv + i, y / sum);
            }
        }
    }
out:
    free(z);
    return st;
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
    mri_view dy = mri_in_view(c, in, 0), q = mri_in_view(c, in, 1), k = mri_in_view(c, in, 2);
    mri_view v = mri_in_view(c, in, 3), o = mri_in_view(c, in, 4), lse = mri_in_view(c, in, 5);
    mri_view start = mri_in_view(c, in, 6);
    mri_view dq = mri_out_view(c, out, 0), dk = mri_out_view(c, out, 1);
    mri_view dv = mri_out_view(c, out, 2);
    mri_heads n = mri_heads_of(c, 3);
    int64_t T = c->in[0]->dim[0], nk = T * n.G * n.C, nv = T * n.G * n.Cv;
    /* keys and values gather from many queries: sums in double, stored once at the end */
    double *sk = mri_alloc((size_t)(nk + nv + n.C) * sizeof *sk), *sv = sk + nk, *sq = sv + nv;
    mr_status st = 0;
    for (int64_t t = 0; t < T; t++) {
        int64_t s;
        MR_TRY(start_of(start, &n, "attention.bwd", t, &s, err));
        int64_t last = mri_last_seen(&n, s, t);
        for (int64_t h = 0; h < n.H; h++) {
            int64_t g = h / (n.H / n.G), iq = (t * n.H + h) * n.C, io = (t * n.H + h) * n.Cv;
            double delta = dot(dy, io, o, io, n.Cv);
            for (int64_t i = 0; i < n.C; i++)
                sq[i] = 0;
            for (int64_t j = mri_first_seen(&n, s, t); j <= last; j++) {
                int64_t ik = (j * n.G + g) * n.C, iv = (j * n.G + g) * n.Cv;
                double p = exp(n.scale * dot(q, iq, k, ik, n.C) - mri_get(lse, t * n.H + h));
                double ds = n.scale * p * (dot(dy, io, v, iv, n.Cv) - delta);
                for (int64_t i = 0; i < n.C; i++) {
                    sq[i] += ds * mri_get(k, ik + i);
                    sk[ik + i] += ds * mri_get(q, iq + i);
                }
                for (int64_t i = 0; i < n.Cv; i++)
                    sv[iv + i] += p * mri_get(dy, io + i);
            }
            for (int64_t i = 0; i < n.C; i++)
                mri_put(dq, iq + i, sq[i]);
        }
    }
    for (int64_t i = 0; i < nk; i++)
        mri_put(dk, i, sk[i]);
    for (int64_t i = 0; i < nv; i++)
        mri_put(dv, i, sv[i]);
out:
    free(sk);
    return st;
}

/* five products where forward has two: z again, dp, dv, dq, dk */
static void bwd_cost(const mr_call *c, mr_cost *cost)
{
    mri_heads n = mri_heads_of(c, 3);
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
    MRI_OPS_END
};
