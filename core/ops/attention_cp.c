/* SPDX-License-Identifier: Apache-2.0
 *
 * attention_cp.c - causal attention where N ranks share each sequence (context parallelism; the
 * zig-zag order is that of Striped and Ring Attention's successors, as Megatron-LM has it). A rank
 * has the queries of its rows of every sequence (zigzag.h) and the keys and values of all rows, in
 * their order. seq_start says, of each query, the row of the whole batch where its sequence begins;
 * else all is as in attention.c: query i is row t = zigzag_row(i) there. N = 1 is attention.
 *
 *   zigzag            rows that lie rank after rank -> rows in their order; inverse: back
 *   attention.cp      o, lse of this rank's queries
 *   attention.cp.bwd  dq of its queries; dk and dv are its part of the sums over all queries
 */
#include "core/ops/heads.h"
#include "core/ops/zigzag.h"

#define CP_ATTRS " ranks:i=1 index:i=0"

/* Whole sequences of seq, each of 2N pieces? `rows`: of how many ranks. */
static mr_status check_cut(const mr_call *c, const char *op, int64_t T, bool all, mr_err *err)
{
    int64_t N = mr_attr_i(c, "ranks", 1), n = mr_attr_i(c, "index", 0);
    int64_t seq = mr_attr_i(c, "seq", 0);
    if (N < 1 || n < 0 || n >= N)
        return mri_op_fail(err, op, "index is %lld of %lld ranks", (long long)n, (long long)N);
    if (seq < 1 || seq % (2 * N))
        return mri_op_fail(err, op, "seq is %lld, must be a multiple of %lld, twice the ranks",
                           (long long)seq, (long long)(2 * N));
    if (T % (all ? seq : seq / N))
        return mri_op_fail(err, op, "%lld rows are not whole sequences, of %lld rows", (long long)T,
                           (long long)(all ? seq : seq / N));
    return MR_OK;
}

/* ---- zigzag --------------------------------------------------------------------------------- */
static mr_status zigzag_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const mr_type *x = mri_in(c, 0);
    mr_status st = check_cut(c, "zigzag", x->rank ? x->dim[0] : 1, true, err);
    if (st)
        return st;
    *out[0] = *x;
    out[0]->dtype = mri_dtype_name(x->dtype);
    return MR_OK;
}

static mr_status zigzag_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)err;
    int64_t T = c->in[0]->dim[0], N = mr_attr_i(c, "ranks", 1), seq = mr_attr_i(c, "seq", 1);
    bool inverse = mr_attr_i(c, "inverse", 0);
    size_t row = mr_bytes(c->in[0]) / (size_t)T;
    for (int64_t n = 0; n < N; n++)
        for (int64_t i = 0; i < T / N; i++) {
            size_t by_rank = (size_t)(n * (T / N) + i) * row;
            size_t ordered = (size_t)mri_zigzag_row(i, seq, N, n) * row;
            memcpy((char *)out[0].data + (inverse ? by_rank : ordered),
                   (const char *)in[0].data + (inverse ? ordered : by_rank), row);
        }
    return MR_OK;
}

static mr_status zigzag_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = mri_emit(v, "zigzag", MR_IN(v->dout[0]),
                             MR_AT(mr_ai("ranks", mr_attr_i(v->call, "ranks", 1)),
                                   mr_ai("seq", mr_attr_i(v->call, "seq", 0)),
                                   mr_ai("inverse", !mr_attr_i(v->call, "inverse", 0))));
    return MR_OK;
}

static void zigzag_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 0, 0);
}

/* ---- attention.cp ------------------------------------------------------------------------ */
typedef struct part { /* one use: what row of the whole its queries are, and what they see */
    mri_heads n;
    int64_t ranks, index;
    mri_view start;
} part;

static part part_of(const mr_call *c, const mr_buf *in, uint32_t v, uint32_t start)
{
    return (part){ mri_heads_of(c, v), mr_attr_i(c, "ranks", 1), mr_attr_i(c, "index", 0),
                   mri_in_view(c, in, start) };
}

/* query i sees the keys [*first, *last] */
static mr_status seen(const part *p, const char *op, int64_t i, int64_t *first, int64_t *last,
                      mr_err *err)
{
    int64_t t = mri_zigzag_row(i, p->n.seq, p->ranks, p->index), s = mri_get_i(p->start, i);
    if (s < t / p->n.seq * p->n.seq || s > t)
        return mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN,
                       "%s: seq_start[%lld] is %lld, must be in %lld..%lld, of the row's sequence",
                       op, (long long)i, (long long)s, (long long)(t / p->n.seq * p->n.seq),
                       (long long)t);
    *first = mri_first_seen(&p->n, s, t);
    *last = t;
    return MR_OK;
}

static double dot(mri_view a, int64_t ia, mri_view b, int64_t ib, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += mri_get(a, ia + i) * mri_get(b, ib + i);
    return sum;
}

static mr_status cp_check(const mr_call *c, const char *op, uint32_t q, mr_err *err)
{
    const mr_type *tq = mri_in(c, q), *tk = mri_in(c, q + 1);
    int64_t T = tq->rank ? tq->dim[0] : 0, all = tk->rank ? tk->dim[0] : 0;
    mr_status st = check_cut(c, op, T, false, err);
    if (!st && all != T * mr_attr_i(c, "ranks", 1))
        st = mri_op_fail(err, op, "%lld keys for %lld queries of each of %lld ranks",
                         (long long)all, (long long)T, (long long)mr_attr_i(c, "ranks", 1));
    return st;
}

static mr_status cp_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = cp_check(c, "attention.cp", 0, err);
    return st ? st
              : mri_heads_infer(c, out, err, "attention.cp", 2,
                                "q:F[T,H*C] k:F[A,G*C] v:F[A,G*V] seq_start:i32[T] -> "
                                "o:F[T,H*V] lse:S[T,H]");
}

static mr_status cp_vjp(const mr_vjp *v, mr_err *err)
{
    mr_val d[3] = { 0 };
    (void)err;
    if (!v->dout[0] || (!mri_need(v, 0) && !mri_need(v, 1) && !mri_need(v, 2)))
        return 0;
    mri_emit_n(v, d, 3, "attention.cp.bwd",
               MR_IN(v->dout[0], v->in[0], v->in[1], v->in[2], v->out[0], v->out[1], v->in[3]),
               v->call->attr, v->call->n_attr);
    for (uint32_t i = 0; i < 3; i++)
        if (mri_need(v, i))
            v->din[i] = d[i];
    return 0;
}

static mr_status cp_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view q = mri_in_view(c, in, 0), k = mri_in_view(c, in, 1), v = mri_in_view(c, in, 2);
    mri_view o = mri_out_view(c, out, 0), lse = mri_out_view(c, out, 1);
    part p = part_of(c, in, 2, 3);
    mri_heads n = p.n;
    double *z = mri_alloc((size_t)c->in[1]->dim[0] * sizeof *z);
    mr_status st = 0;
    for (int64_t t = 0; t < c->in[0]->dim[0]; t++) {
        int64_t first, last;
        MR_TRY(seen(&p, "attention.cp", t, &first, &last, err));
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

/* Each rank has its share of the whole's pairs. */
static double pairs(const mr_call *c, const mri_heads *n, uint32_t k)
{
    return (double)n->H * mri_pairs(n, c->in[k]->dim[0]) / (double)mr_attr_i(c, "ranks", 1);
}

static void cp_cost(const mr_call *c, mr_cost *cost)
{
    mri_heads n = mri_heads_of(c, 2);
    mri_cost(c, cost, pairs(c, &n, 1) * 2 * (double)(n.C + n.Cv), 0);
}

/* ---- attention.cp.bwd --------------------------------------------------------------------- */
static mr_status bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = cp_check(c, "attention.cp.bwd", 1, err);
    return st ? st
              : mri_heads_infer(c, out, err, "attention.cp.bwd", 3,
                                "do:F[T,H*V] q:F[T,H*C] k:F[A,G*C] v:F[A,G*V] o:F[T,H*V] "
                                "lse:S[T,H] seq_start:i32[T] -> dq:F[T,H*C] dk:F[A,G*C] "
                                "dv:F[A,G*V]");
}

static mr_status bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view dy = mri_in_view(c, in, 0), q = mri_in_view(c, in, 1), k = mri_in_view(c, in, 2);
    mri_view v = mri_in_view(c, in, 3), o = mri_in_view(c, in, 4), lse = mri_in_view(c, in, 5);
    mri_view dq = mri_out_view(c, out, 0), dk = mri_out_view(c, out, 1);
    mri_view dv = mri_out_view(c, out, 2);
    part p = part_of(c, in, 3, 6);
    mri_heads n = p.n;
    int64_t A = c->in[2]->dim[0], nk = A * n.G * n.C, nv = A * n.G * n.Cv;
    double *sk = mri_alloc((size_t)(nk + nv + n.C) * sizeof *sk), *sv = sk + nk, *sq = sv + nv;
    mr_status st = 0;
    for (int64_t t = 0; t < c->in[1]->dim[0]; t++) {
        int64_t first, last;
        MR_TRY(seen(&p, "attention.cp.bwd", t, &first, &last, err));
        for (int64_t h = 0; h < n.H; h++) {
            int64_t g = h / (n.H / n.G), iq = (t * n.H + h) * n.C, io = (t * n.H + h) * n.Cv;
            double delta = dot(dy, io, o, io, n.Cv);
            for (int64_t i = 0; i < n.C; i++)
                sq[i] = 0;
            for (int64_t j = first; j <= last; j++) {
                int64_t ik = (j * n.G + g) * n.C, iv = (j * n.G + g) * n.Cv;
                double w = exp(n.scale * dot(q, iq, k, ik, n.C) - mri_get(lse, t * n.H + h));
                double ds = n.scale * w * (dot(dy, io, v, iv, n.Cv) - delta);
                for (int64_t i = 0; i < n.C; i++) {
                    sq[i] += ds * mri_get(k, ik + i);
                    sk[ik + i] += ds * mri_get(q, iq + i);
                }
                for (int64_t i = 0; i < n.Cv; i++)
                    sv[iv + i] += w * mri_get(dy, io + i);
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

static void bwd_cost(const mr_call *c, mr_cost *cost)
{
    mri_heads n = mri_heads_of(c, 3);
    mri_cost(c, cost, pairs(c, &n, 2) * 2 * (double)(3 * n.C + 2 * n.Cv), 0);
}

const mr_op_def mri_ops_attention_cp[] = {
    { MRI_OP, .id = "zigzag",
      .doc = "rows that lie rank after rank, in the order of their sequences; inverse: back",
      .sig = "x -> y", .attrs = "ranks:i seq:i inverse:i=0 index:i=0", .shape = zigzag_shape,
      .vjp = zigzag_vjp, .ref = zigzag_ref, .cost = zigzag_cost,
      .cases = MRI_CASES("x=F[24,3] @ranks=2 @seq=12", "x=F[8,5] @ranks=4 @seq=8 @inverse=1") },
    { MRI_OP, .id = "attention.cp",
      .doc = "attention of one of N ranks' queries, which lie zig-zag, with the keys of all",
      .sig = "q k v seq_start -> o lse", .attrs = MRI_HEADS_ATTRS CP_ATTRS, .shape = cp_shape,
      .vjp = cp_vjp, .ref = cp_ref, .cost = cp_cost,
      .shard = "T H, A H, A H, T -> T H, T H | H:map:heads,kv_heads",
      .cases = MRI_CASES(
          "q=F[8,16] k=F[16,8] v=F[16,8] seq_start=i32[8]{0,0,0,0,8,8,8,8} @heads=4 @kv_heads=2 "
          "@head_dim=4 @seq=8 @ranks=2 @index=1",
          "q=F[6,12] k=F[24,6] v=F[24,10] seq_start=i32[6]{0,3,3,0,3,14} @heads=4 @kv_heads=2 "
          "@head_dim=3 @scale=0.7 @seq=24 @ranks=4 @index=1",
          "q=F[80,6] k=F[160,6] v=F[160,4] seq_start=i32[80]zero @heads=1 @kv_heads=1 @head_dim=6 "
          "@seq=160 @ranks=2 @chunk=50",
          "q=F[12,6] k=F[12,6] v=F[12,6] seq_start=i32[12]start:6 @heads=2 @kv_heads=2 @head_dim=3 "
          "@seq=6") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "attention.cp.bwd",
      .doc = "gradients of attention.cp from o and lse; dk and dv are this rank's part of sums",
      .sig = "do q k v o lse seq_start -> dq dk dv", .attrs = MRI_HEADS_ATTRS CP_ATTRS,
      .shape = bwd_shape, .ref = bwd_ref, .cost = bwd_cost,
      .shard = "T H, T H, A H, A H, T H, T H, T -> T H, A H, A H | H:map:heads,kv_heads" },
    MRI_OPS_END
};
