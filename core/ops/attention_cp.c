/* SPDX-License-Identifier: Apache-2.0
 *
 * attention_cp.c - causal attention where N ranks share each sequence (context parallelism; the
 * zig-zag order is that of Striped and Ring Attention's successors, as Megatron-LM has it). A rank
 * has the queries of its rows of every sequence (zigzag.h) and the keys and values of all rows, in
 * their order. seq_start says, of each query, the row of the whole batch where its sequence begins;
 * else all is as in attention.c: query i is row t = zigzag_row(i) there. N = 1 is attention.
 *
 *   zigzag            rows that lie rank after rank -> rows in their order; inverse: back
 *   attention.cp        o, lse of this rank's queries
 *   attention.cp.bwd    dq of its queries; dk and dv are its part of the sums over all queries
 *   attention.part      of this rank's queries with the keys of one rank alone, in that rank's
 *                       order: a part of o, and of lse, that attention.merge joins with others
 *   attention.part.bwd  what those keys and values add to the gradients; lse and o are the whole's
 */
#include "core/ops/attend.h"
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

/* ---- attention.cp and attention.part --------------------------------------------------------- */
/* query t sees the keys [*first, *last]: rows of the whole, or those of rank `from` alone */
static mr_status seen(const mri_attend *a, int64_t i, int64_t *first, int64_t *last, mr_err *err)
{
    int64_t seq = a->n.seq, t = mri_zigzag_row(i, seq, a->ranks, a->index);
    int64_t s = mri_get_i(a->start, i);
    if (s < t / seq * seq || s > t)
        return mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN,
                       "%s: seq_start[%lld] is %lld, must be in %lld..%lld, of the row's sequence",
                       a->op, (long long)i, (long long)s, (long long)(t / seq * seq),
                       (long long)t);
    *first = mri_first_seen(&a->n, s, t);
    *last = t;
    if (a->from >= 0) {
        *first = mri_zigzag_before(*first, seq, a->ranks, a->from);
        *last = mri_zigzag_before(*last + 1, seq, a->ranks, a->from) - 1;
    }
    return MR_OK;
}

/* of operands q, k, v from `q` on, and seq_start */
static mri_attend use_of(const char *op, const mr_call *c, const mr_buf *in, uint32_t q,
                         uint32_t start, bool part)
{
    mri_attend a = { .op = op, .n = mri_heads_of(c, q + 2), .queries = c->in[q]->dim[0],
                     .keys = c->in[q + 1]->dim[0], .start = mri_in_view(c, in, start),
                     .ranks = mr_attr_i(c, "ranks", 1), .index = mr_attr_i(c, "index", 0),
                     .from = part ? mr_attr_i(c, "from", 0) : -1, .seen = seen };
    a.x = mri_qkv_apart(&a.n, mri_in_view(c, in, q), mri_in_view(c, in, q + 1),
                        mri_in_view(c, in, q + 2));
    return a;
}

static mr_status check_keys(const mr_call *c, const char *op, uint32_t q, bool part, mr_err *err)
{
    const mr_type *tq = mri_in(c, q), *tk = mri_in(c, q + 1);
    int64_t T = tq->rank ? tq->dim[0] : 0, all = tk->rank ? tk->dim[0] : 0;
    int64_t ranks = mr_attr_i(c, "ranks", 1), from = mr_attr_i(c, "from", 0);
    mr_status st = check_cut(c, op, T, false, err);
    if (!st && part && (from < 0 || from >= ranks))
        st = mri_op_fail(err, op, "from is %lld of %lld ranks", (long long)from, (long long)ranks);
    if (!st && all != T * (part ? 1 : ranks))
        st = mri_op_fail(err, op, "%lld keys for %lld queries of each of %lld ranks",
                         (long long)all, (long long)T, (long long)ranks);
    return st;
}

static mr_status cp_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = check_keys(c, "attention.cp", 0, false, err);
    return st ? st
              : mri_heads_infer(c, out, err, "attention.cp", 2,
                                "q:F[T,H*C] k:F[A,G*C] v:F[A,G*V] seq_start:i32[T] -> "
                                "o:F[T,H*V] lse:S[T,H]");
}

static mr_status part_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = check_keys(c, "attention.part", 0, true, err);
    return st ? st
              : mri_heads_infer(c, out, err, "attention.part", 2,
                                "q:F[T,H*C] k:F[T,G*C] v:F[T,G*V] seq_start:i32[T] -> "
                                "o:S[T,H*V] lse:S[T,H]");
}

static mr_status cp_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    return mri_attend_vjp(v, "attention.cp.bwd");
}

static mr_status forward(const mri_attend *a, const mr_call *c, const mr_buf *out, mr_err *err)
{
    return mri_attend_forward(a, mri_out_view(c, out, 0), mri_out_view(c, out, 1), err);
}

static mr_status cp_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_attend a = use_of("attention.cp", c, in, 0, 3, false);
    return forward(&a, c, out, err);
}

mr_status mri_attend_part(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_attend a = use_of("attention.part", c, in, 0, 3, true);
    return forward(&a, c, out, err);
}

/* Each rank has its share of the whole's pairs, and each block of keys about as many of them. */
static double pairs(const mr_call *c, uint32_t q, bool part)
{
    mri_heads n = mri_heads_of(c, q + 2);
    double ranks = (double)mr_attr_i(c, "ranks", 1);
    int64_t all = c->in[q]->dim[0] * mr_attr_i(c, "ranks", 1);
    return (double)n.H * mri_pairs(&n, all) / (part ? ranks * ranks : ranks);
}

static void forward_cost(const mr_call *c, bool part, mr_cost *cost)
{
    mri_heads n = mri_heads_of(c, 2);
    mri_cost(c, cost, pairs(c, 0, part) * 2 * (double)(n.C + n.Cv), 0);
}

static void cp_cost(const mr_call *c, mr_cost *cost)
{
    forward_cost(c, false, cost);
}

static void part_cost(const mr_call *c, mr_cost *cost)
{
    forward_cost(c, true, cost);
}

/* ---- backward ----------------------------------------------------------------------------- */
static mr_status cp_bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = check_keys(c, "attention.cp.bwd", 1, false, err);
    return st ? st
              : mri_heads_infer(c, out, err, "attention.cp.bwd", 3,
                                "do:F[T,H*V] q:F[T,H*C] k:F[A,G*C] v:F[A,G*V] o:F[T,H*V] "
                                "lse:S[T,H] seq_start:i32[T] -> dq:F[T,H*C] dk:F[A,G*C] "
                                "dv:F[A,G*V]");
}

static mr_status part_bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = check_keys(c, "attention.part.bwd", 1, true, err);
    return st ? st
              : mri_heads_infer(c, out, err, "attention.part.bwd", 3,
                                "do:F[T,H*V] q:F[T,H*C] k:F[T,G*C] v:F[T,G*V] o:F[T,H*V] "
                                "lse:S[T,H] seq_start:i32[T] -> dq:S[T,H*C] dk:S[T,G*C] "
                                "dv:S[T,G*V]");
}

static mr_status backward(const mri_attend *a, const mr_call *c, const mr_buf *in,
                          const mr_buf *out, mr_err *err)
{
    mri_qkv d = mri_qkv_apart(&a->n, mri_out_view(c, out, 0), mri_out_view(c, out, 1),
                              mri_out_view(c, out, 2));
    return mri_attend_backward(a, mri_in_view(c, in, 0), mri_in_view(c, in, 4),
                               mri_in_view(c, in, 5), &d, err);
}

static mr_status cp_bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_attend a = use_of("attention.cp.bwd", c, in, 1, 6, false);
    return backward(&a, c, in, out, err);
}

static mr_status part_bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_attend a = use_of("attention.part.bwd", c, in, 1, 6, true);
    return backward(&a, c, in, out, err);
}

static void bwd_cost(const mr_call *c, bool part, mr_cost *cost)
{
    mri_heads n = mri_heads_of(c, 3);
    mri_cost(c, cost, pairs(c, 1, part) * 2 * (double)(3 * n.C + 2 * n.Cv), 0);
}

static void cp_bwd_cost(const mr_call *c, mr_cost *cost)
{
    bwd_cost(c, false, cost);
}

static void part_bwd_cost(const mr_call *c, mr_cost *cost)
{
    bwd_cost(c, true, cost);
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
      .shape = cp_bwd_shape, .ref = cp_bwd_ref, .cost = cp_bwd_cost,
      .shard = "T H, T H, A H, A H, T H, T H, T -> T H, A H, A H | H:map:heads,kv_heads" },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "attention.part",
      .doc = "attention of a rank's queries with the keys of rank `from` alone, both zig-zag",
      .sig = "q k v seq_start -> o lse", .attrs = MRI_HEADS_ATTRS CP_ATTRS " from:i=0",
      .shape = part_shape, .ref = mri_attend_part, .cost = part_cost,
      .shard = "T H, T H, T H, T -> T H, T H | H:map:heads,kv_heads",
      .cases = MRI_CASES(
          "q=F[8,16] k=F[8,8] v=F[8,8] seq_start=i32[8]{0,0,0,0,8,8,8,8} @heads=4 @kv_heads=2 "
          "@head_dim=4 @seq=8 @ranks=2 @index=1 @from=1",
          "q=F[80,6] k=F[80,6] v=F[80,4] seq_start=i32[80]zero @heads=1 @kv_heads=1 @head_dim=6 "
          "@seq=160 @ranks=2 @index=1",
          "q=F[12,6] k=F[12,6] v=F[12,6] seq_start=i32[12]start:6 @heads=2 @kv_heads=2 "
          "@head_dim=3 @seq=6") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "attention.part.bwd",
      .doc = "what these keys and values give to the gradients; o and lse are of all ranks' keys",
      .sig = "do q k v o lse seq_start -> dq dk dv", .attrs = MRI_HEADS_ATTRS CP_ATTRS " from:i=0",
      .shape = part_bwd_shape, .ref = part_bwd_ref, .cost = part_bwd_cost,
      .shard = "T H, T H, T H, T H, T H, T H, T -> T H, T H, T H | H:map:heads,kv_heads" },
    MRI_OPS_END
};
