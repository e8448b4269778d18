/* SPDX-License-Identifier: Apache-2.0
 *
 * heads.h - the head geometry that all attention ops share: H query heads of C values read
 * G key/value heads (head h reads h / (H/G)), values are Cv wide; a token sees the tokens of
 * its own sequence and chunk that are not after it, or with causal = 0 its whole sequence.
 * packed = 0 is a promise: every sequence has exactly seq tokens and starts at a multiple of seq, so
 * seq_start says nothing new; with causal = 0 it is left out.
 * And where a cache in pages has a token's row.
 */
#ifndef MRI_HEADS_H
#define MRI_HEADS_H
#include "core/ops/common.h"

#define MRI_HEADS_ATTRS "heads:i kv_heads:i head_dim:i scale:f? chunk:i=0 seq:i=0 packed:i=1"

typedef struct mri_heads {
    int64_t H, G, C, Cv, chunk, seq; /* seq: no sequence is longer, 0: unknown               */
    int64_t packed, causal;
    double scale;
} mri_heads;

/* Attributes, and Cv from the type of v. */
static inline mri_heads mri_heads_of(const mr_call *c, uint32_t v)
{
    mri_heads h = { .H = mr_attr_i(c, "heads", 0), .G = mr_attr_i(c, "kv_heads", 0),
                    .C = mr_attr_i(c, "head_dim", 0), .chunk = mr_attr_i(c, "chunk", 0),
                    .seq = mr_attr_i(c, "seq", 0),
                    .packed = mr_attr_i(c, "packed", 1),
                    .causal = mr_attr_i(c, "causal", 1) };
    h.Cv = h.G > 0 ? mr_last(c->in[v]) / h.G : 0;
    h.scale = mr_attr_f(c, "scale", h.C > 0 ? 1 / sqrt((double)h.C) : 0);
    return h;
}

/* Queries, keys and values side by side in one operand: G values are what H queries and G keys of
 * C leave of a row, each as wide as that allows. */
static inline mri_heads mri_heads_beside(const mr_call *c, uint32_t qkv)
{
    mri_heads h = mri_heads_of(c, qkv);
    h.Cv = h.G > 0 ? (mr_last(c->in[qkv]) - (h.H + h.G) * h.C) / h.G : 0;
    return h;
}

/* Checks the attributes, then the shapes, with H G C V bound, and W = H C + G C + G V. */
static inline mr_status mri_heads_infer_as(const mri_heads *h, const mr_call *c,
                                           mr_type *const *out, mr_err *err, const char *op,
                                           const char *spec)
{
    if (h->H < 1 || h->G < 1 || h->H % h->G)
        return mri_op_fail(err, op, "kv_heads is %lld, must divide heads, %lld", (long long)h->G,
                           (long long)h->H);
    if (h->C < 1 || h->chunk < 0 || h->seq < 0)
        return mri_op_fail(err, op, "head_dim is %lld, chunk %lld and seq %lld, must be at least 1, "
                           "0 and 0", (long long)h->C, (long long)h->chunk, (long long)h->seq);
    return mri_infer(c, out, err, op, spec,
                     MRI_GIVEN({ "H", h->H }, { "G", h->G }, { "C", h->C }, { "V", h->Cv },
                               { "W", (h->H + h->G) * h->C + h->G * h->Cv }));
}

static inline mr_status mri_heads_infer(const mr_call *c, mr_type *const *out, mr_err *err,
                                        const char *op, uint32_t v, const char *spec)
{
    mri_heads h = mri_heads_of(c, v);
    return mri_heads_infer_as(&h, c, out, err, op, spec);
}

/* T tokens are whole sequences of seq, if that is promised; `start` is the operand seq_start. */
static inline mr_status mri_heads_promise(const mr_call *c, uint32_t v, uint32_t start,
                                          mr_err *err, const char *op)
{
    mri_heads h = mri_heads_of(c, v);
    int64_t T = c->in[0]->dim[0];
    if (!h.causal && (h.packed || h.chunk))
        return mri_op_fail(err, op, "causal is 0, packed %lld and chunk %lld, must then be 0",
                           (long long)h.packed, (long long)h.chunk);
    if (!h.causal == !!mri_in(c, start))
        return mri_op_fail(err, op, "causal is %lld, seq_start must %s", (long long)h.causal,
                           h.causal ? "be there" : "then be absent");
    if (!h.packed && (h.seq < 1 || T % h.seq))
        return mri_op_fail(err, op, "packed is 0 and seq %lld, must then divide the %lld tokens",
                           (long long)h.seq, (long long)T);
    return 0;
}

/* The first position that position t of the sequence that starts at s sees. */
static inline int64_t mri_first_seen(const mri_heads *h, int64_t s, int64_t t)
{
    return h->chunk ? s + (t - s) / h->chunk * h->chunk : s;
}

/* The last position that position t of the sequence that starts at s sees. */
static inline int64_t mri_last_seen(const mri_heads *h, int64_t s, int64_t t)
{
    return h->causal ? t : s + h->seq - 1;
}

/* A cache of N pages of P rows, [N,P,..], behind a table: position p of slot b is row p % P of
 * page pages[b][p / P]. A table's entry is looked at only where a row is needed. */
typedef struct mri_paged {
    const char *op;
    mri_view positions, slot, pages;
    int64_t B, M, N, P; /* slots, pages of a slot, pages of the cache, rows of a page */
} mri_paged;

/* operand `at` is positions, followed by slot and pages */
static inline mri_paged mri_paged_of(const char *op, const mr_call *c, const mr_buf *in,
                                     uint32_t at, const mr_type *cache)
{
    return (mri_paged){ op, mri_in_view(c, in, at), mri_in_view(c, in, at + 1),
                        mri_in_view(c, in, at + 2), c->in[at + 2]->dim[0],
                        c->in[at + 2]->dim[1], cache->dim[0], cache->dim[1] };
}

/* -> the slot of token t, or -1 if it is unused, and its position */
static inline mr_status mri_paged_place(const mri_paged *g, int64_t t, int64_t *slot,
                                        int64_t *position, mr_err *err)
{
    int64_t b = *slot = mri_get_i(g->slot, t), p = *position = mri_get_i(g->positions, t);
    if (b == -1 || (b >= 0 && b < g->B && p >= 0 && p < g->M * g->P))
        return 0;
    return mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN,
                   "%s: row %lld is (slot %lld, position %lld), the page table has %lld slots of "
                   "%lld pages of %lld positions", g->op, (long long)t, (long long)b, (long long)p,
                   (long long)g->B, (long long)g->M, (long long)g->P);
}

/* row[first..end) of the cache that a slot's positions have */
static inline mr_status mri_paged_rows(const mri_paged *g, int64_t slot, int64_t first, int64_t end,
                                       int64_t *row, mr_err *err)
{
    for (int64_t p = first; p < end; p++) {
        int64_t page = mri_get_i(g->pages, slot * g->M + p / g->P);
        if (page < 0 || page >= g->N)
            return mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN,
                           "%s: position %lld of slot %lld is in page %lld, the cache has %lld "
                           "pages", g->op, (long long)p, (long long)slot, (long long)page,
                           (long long)g->N);
        row[p] = page * g->P + p % g->P;
    }
    return 0;
}

/* (query, key) pairs of one sequence of n tokens: all, or the causal half, cut by chunks */
static inline double mri_sequence_pairs(const mri_heads *h, int64_t n)
{
    double full = h->chunk ? (double)(n / h->chunk) : 0, c = (double)h->chunk;
    if (!h->causal)
        return (double)n * (double)n;
    double rest = h->chunk ? (double)(n % h->chunk) : (double)n;
    return full * c * (c + 1) / 2 + rest * (rest + 1) / 2;
}

/* pairs of T tokens: as many sequences of `seq` as fit, and the rest */
static inline double mri_pairs(const mri_heads *h, int64_t T)
{
    int64_t seq = h->seq > 0 && h->seq < T ? h->seq : T;
    return seq ? (double)(T / seq) * mri_sequence_pairs(h, seq) + mri_sequence_pairs(h, T % seq) : 0;
}

#endif
