/* SPDX-License-Identifier: Apache-2.0
 *
 * rows.c - rows taken in another order, for what travels between ranks: take_rows by an index (-1:
 * a row of zeros), zigzag by arithmetic. Bytes are moved, whatever they mean.
 */
#include "cpu.h"
#include <string.h>

struct rows {
    struct kernel base;
    int64_t n, from; /* rows made; rows there are */
    uint64_t row;    /* bytes */
    int64_t ranks, seq;
    int inverse, parts;
};

#define SELF const struct rows *k = (const struct rows *)base

static mr_status take_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                          mr_err *err)
{
    SELF;
    const int32_t *index = in[1].data;
    const char *x = in[0].data;
    char *y = out[0].data;
#pragma omp parallel for schedule(static, 1) if (k->parts > 1)
    for (int p = 0; p < k->parts; p++) {
        int64_t lo, hi;
        cpu_range(k->n, 1, p, k->parts, &lo, &hi);
        for (int64_t i = lo; i < hi; i++) {
            char *to = y + (uint64_t)i * k->row;
            if (index[i] < 0 || index[i] >= k->from)
                memset(to, 0, k->row);
            else
                memcpy(to, x + (uint64_t)index[i] * k->row, k->row);
        }
    }
    (void)ws, (void)err;
    return MR_OK;
}

/* Pieces of seq / (2 ranks) rows stay whole: piece i of a rank, in turn from the front and from the
 * back of each sequence. */
static mr_status zigzag_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                            mr_err *err)
{
    SELF;
    int64_t piece = k->seq / (2 * k->ranks), pieces = k->n / piece, own = pieces / k->ranks;
    uint64_t bytes = (uint64_t)piece * k->row;
#pragma omp parallel for schedule(static) if (k->parts > 1)
    for (int64_t i = 0; i < pieces; i++) {
        int64_t rank = i / own, at = i % own;
        int64_t to = at / 2 * 2 * k->ranks + (at % 2 ? 2 * k->ranks - 1 - rank : rank);
        uint64_t by_rank = (uint64_t)i * bytes, ordered = (uint64_t)to * bytes;
        memcpy((char *)out[0].data + (k->inverse ? by_rank : ordered),
               (const char *)in[0].data + (k->inverse ? ordered : by_rank), bytes);
    }
    (void)ws, (void)err;
    return MR_OK;
}

/* ---- from types to kernels ---------------------------------------------------------------- */
static void sizes(struct rows *k, const mr_call *c)
{
    k->from = c->in[0]->dim[0];
    k->n = c->out[0]->dim[0];
    k->row = mr_bytes(c->in[0]) / (uint64_t)k->from;
    k->parts = cpu_parts(&k->base, k->n * (int64_t)k->row, 65536);
}

static mr_status take_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    (void)err;
    sizes((struct rows *)base, c);
    base->run = take_run;
    return MR_OK;
}

static mr_status zigzag_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct rows *k = (struct rows *)base;
    k->ranks = mr_attr_i(c, "ranks", 1);
    k->seq = mr_attr_i(c, "seq", 0);
    k->inverse = mr_attr_i(c, "inverse", 0) != 0;
    sizes(k, c);
    base->run = zigzag_run;
    if (k->ranks > 0 && k->seq > 0 && k->seq % (2 * k->ranks) == 0 && k->n % k->seq == 0)
        return MR_OK;
    return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER,
                   "zigzag of %lld rows in sequences of %lld over %lld ranks", (long long)k->n,
                   (long long)k->seq, (long long)k->ranks);
}

const struct op_row ISA_NAME(rows_rows)[] = {
    { "take_rows", "nii>n", sizeof(struct rows), take_prepare },
    { "zigzag", "n>n", sizeof(struct rows), zigzag_prepare },
    { 0 },
};
