/* SPDX-License-Identifier: Apache-2.0
 *
 * attention_ranks.c - attention of sequences that ranks share: the kernels of attention.c, which
 * ask here what a query sees of the keys of all ranks, or of one; and the joining of the parts by
 * log-sum-exp. attention.merge reads both parts and writes one: 12 bytes a value, no more than
 * 3 flops; the floor is the memory's.
 */
#include "attn.h"

struct joined {
    struct kernel base;
    int64_t rows, width; /* of o: of a head to be joined, of a token to be rounded */
    uint32_t acc;        /* which operand has all parts */
};

#define SELF const struct joined *k = (const struct joined *)base

/* The row of all ranks' sequences that query i of this rank is: a sequence is cut into twice as
 * many pieces as there are ranks, and each has one piece from the front and one from the back. */
static int64_t zigzag_row(const struct attn *k, int64_t i)
{
    int64_t piece = k->seq / (2 * k->ranks), in = i % (2 * piece);
    int64_t at = in < piece ? k->index * piece + in : (2 * k->ranks - 2 - k->index) * piece + in;
    return i / (2 * piece) * k->seq + at;
}

/* How many rows of rank `from` lie before row t of all. */
static int32_t rows_before(const struct attn *k, int64_t t)
{
    int64_t piece = k->seq / (2 * k->ranks), in = t % k->seq, n = t / k->seq * 2 * piece;
    int64_t front = in - k->from * piece, back = in - (2 * k->ranks - 1 - k->from) * piece;
    n += front <= 0 ? 0 : front < piece ? front : piece;
    return (int32_t)(n + (back <= 0 ? 0 : back < piece ? back : piece));
}

mr_status attn_seen_zigzag(const struct attn *k, const int32_t *start, int32_t *lo, int32_t *hi,
                           mr_err *err)
{
    for (int64_t i = 0; i < k->tokens; i++) {
        int64_t t = zigzag_row(k, i);
        if (start[i] < t / k->seq * k->seq || start[i] > t)
            return mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                           "%s: seq_start[%lld] is %d, must be in %lld..%lld",
                           k->from < 0 ? "attention.cp" : "attention.part", (long long)i, start[i],
                           (long long)(t / k->seq * k->seq), (long long)t);
        lo[i] = attn_first(k, start[i], (int32_t)t);
        hi[i] = (int32_t)t + 1;
        if (k->from >= 0) {
            lo[i] = rows_before(k, lo[i]);
            hi[i] = rows_before(k, hi[i]);
        }
    }
    return MR_OK;
}

/* ---- the parts joined ---------------------------------------------------------------------- */
/* of one head of a token: what each side's o is taken times; the sums' logarithm. A side that saw
 * no key has -inf. */
INLINE float join(float la, float lb, float *wa, float *wb)
{
    float max = la > lb ? la : lb;
    if (la == -INFINITY && lb == -INFINITY) {
        *wa = *wb = 0;
        return la;
    }
    double a = exp((double)la - max), b = exp((double)lb - max), sum = a + b;
    *wa = (float)(a / sum);
    *wb = (float)(b / sum);
    return (float)(max + log(sum));
}

static mr_status merge_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                           mr_err *err)
{
    SELF;
    const float *oa = in[0].data, *la = in[1].data, *ob = in[2].data, *lb = in[3].data;
    float *o = out[0].data, *lse = out[1].data;
    int parts = cpu_parts(base, k->rows, 16);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(k->rows, 1, p, parts, &lo, &hi);
        for (int64_t r = lo; r < hi; r++) {
            float wa, wb;
            lse[r] = join(la[r], lb[r], &wa, &wb);
            for (int64_t i = r * k->width; i < (r + 1) * k->width; i++)
                o[i] = wa * oa[i] + wb * ob[i];
        }
    }
    (void)ws, (void)err;
    return MR_OK;
}

/* All parts are in acc: it is rounded. */
static mr_status ring_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                          mr_err *err)
{
    SELF;
    const float *acc = in[k->acc].data;
    int64_t width = k->width;
    int parts = cpu_parts(base, k->rows, 16);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(k->rows, 1, p, parts, &lo, &hi);
        from_f32(out_arr(base, out, 0), lo * width, acc + lo * width, (hi - lo) * width);
    }
    (void)ws, (void)err;
    return MR_OK;
}

/* ---- from types to kernels ---------------------------------------------------------------- */
/* After prepare() of the plain op: its run() asks only what a query sees, and where keys end. */
static mr_status zigzag_prepare(struct attn *k, const mr_call *c, int part, mr_err *err)
{
    k->ranks = mr_attr_i(c, "ranks", 1);
    k->index = mr_attr_i(c, "index", 0);
    k->seq = mr_attr_i(c, "seq", 0);
    k->from = part ? mr_attr_i(c, "from", 0) : -1;
    int64_t all = k->tokens * k->ranks;
    if (k->ranks > 0 && k->seq > 0 && k->seq % (2 * k->ranks) == 0 && k->index >= 0 &&
        k->index < k->ranks && k->from < k->ranks && (!part || k->from >= 0) &&
        all % k->seq == 0 && k->keys == (part ? k->tokens : all))
        return MR_OK;
    return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER,
                   "attention of %lld queries and %lld keys in sequences of %lld over %lld ranks",
                   (long long)k->tokens, (long long)k->keys, (long long)k->seq,
                   (long long)k->ranks);
}

static mr_status attention_cp_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    mr_status st = attn_prepare(base, c, err);
    return st ? st : zigzag_prepare((struct attn *)base, c, 0, err);
}

static mr_status attention_cp_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    mr_status st = attn_bwd_prepare(base, c, err);
    return st ? st : zigzag_prepare((struct attn *)base, c, 0, err);
}

static mr_status attention_part_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    mr_status st = attn_prepare(base, c, err);
    return st ? st : zigzag_prepare((struct attn *)base, c, 1, err);
}

static mr_status attention_part_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    mr_status st = attn_bwd_prepare(base, c, err);
    return st ? st : zigzag_prepare((struct attn *)base, c, 1, err);
}

static mr_status merge_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct joined *k = (struct joined *)base;
    (void)err;
    k->rows = mr_numel(c->in[1]);
    k->width = mr_last(c->in[0]) / mr_last(c->in[1]);
    base->run = merge_run;
    base->flags |= MR_K_INPLACE0;
    return MR_OK;
}

static mr_status ring_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct joined *k = (struct joined *)base;
    (void)err;
    k->rows = mr_rows(c->out[0]);
    k->width = mr_last(c->out[0]);
    k->acc = c->n_in - 2;
    base->run = ring_run;
    return MR_OK;
}

const struct op_row ISA_NAME(attention_ranks_rows)[] = {
    { "attention.cp", "xxxi>xf", sizeof(struct attn), attention_cp_prepare },
    { "attention.cp.bwd", "xxxxxfi>xxx", sizeof(struct attn), attention_cp_bwd_prepare },
    { "attention.part", "xxxi>ff", sizeof(struct attn), attention_part_prepare },
    { "attention.part.bwd", "xxxxxfi>fff", sizeof(struct attn), attention_part_bwd_prepare },
    { "attention.merge", "ffff>ff", sizeof(struct joined), merge_prepare },
    { "attention.ring", "xxxiff>x", sizeof(struct joined), ring_prepare },
    { "mla_attention.ring", "xxxxiiff>x", sizeof(struct joined), ring_prepare },
    { 0 },
};
