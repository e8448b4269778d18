/* SPDX-License-Identifier: Apache-2.0
 *
 * embedding.c - rows of a table, and their gradient. The gradient's parts take columns, so
 * every table row is summed by one thread in the order of the tokens. The table may be a part of
 * the vocabulary: rows of other ids are zeros then.
 */
#include "vec.h"

struct embedding {
    struct kernel base;
    int64_t tokens, rows, d, skip;
    int64_t first, vocab; /* the table's first id; ids of all parts */
};

static mr_status check_ids(const struct embedding *k, const int32_t *ids, mr_err *err)
{
    for (int64_t t = 0; t < k->tokens; t++)
        if (ids[t] < 0 || ids[t] >= k->vocab)
            return mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                           "embedding: ids[%lld] is %d, the table has %lld rows", (long long)t,
                           ids[t], (long long)k->vocab);
    return MR_OK;
}

static mr_status embedding_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                               void *ws, mr_err *err)
{
    const struct embedding *k = (const struct embedding *)base;
    const int32_t *ids = in[0].data;
    arr table = in_arr(base, in, 1), y = out_arr(base, out, 0);
    int parts = cpu_parts(base, k->tokens * k->d, 16384);
    if (check_ids(k, ids, err))
        return MR_E_ARG;
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(k->tokens, 1, p, parts, &lo, &hi);
        for (int64_t t = lo; t < hi; t++) {
            int64_t id = ids[t] - k->first;
            arr o = arr_at(y, t * k->d), row = arr_at(table, id * k->d);
            if (id < 0 || id >= k->rows) {
                zero(o, 0, k->d);
                continue;
            }
            for (int64_t i = 0; i < k->d; i += W) {
                int l = LANES(i, k->d);
                st(o, i, l, ld(row, i, l));
            }
        }
    }
    (void)ws;
    return MR_OK;
}

static mr_status embedding_bwd_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                                   void *ws, mr_err *err)
{
    const struct embedding *k = (const struct embedding *)base;
    const int32_t *ids = in[1].data;
    arr dy = in_arr(base, in, 0), table = in_arr(base, in, 2);
    int parts = cpu_parts(base, k->tokens * k->d, 16384);
    if (check_ids(k, ids, err))
        return MR_E_ARG;
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(k->d, CPU_ALIGN / 4, p, parts, &lo, &hi);
        for (int64_t t = 0; t < k->tokens; t++) {
            int64_t id = ids[t] - k->first;
            arr row = arr_at(table, id * k->d), d = arr_at(dy, t * k->d);
            if (ids[t] == k->skip || id < 0 || id >= k->rows)
                continue;
            for (int64_t i = lo; i < hi; i += W) {
                int l = LANES(i, hi);
                st(row, i, l, ld(row, i, l) + ld(d, i, l));
            }
        }
    }
    (void)out, (void)ws;
    return MR_OK;
}

static void part(struct embedding *k, const mr_call *c, const mr_type *table)
{
    k->rows = mr_rows(table);
    k->first = mr_attr_i(c, "first", 0);
    k->vocab = mr_attr_i(c, "vocab", k->rows);
}

static mr_status embedding_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct embedding *k = (struct embedding *)base;
    k->tokens = mr_numel(c->in[0]);
    part(k, c, c->in[1]);
    k->d = mr_last(c->in[1]);
    base->run = embedding_run;
    (void)err;
    return MR_OK;
}

static mr_status embedding_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct embedding *k = (struct embedding *)base;
    k->tokens = mr_numel(c->in[1]);
    part(k, c, c->in[2]);
    k->d = mr_last(c->in[2]);
    k->skip = mr_attr_i(c, "skip", -1);
    base->run = embedding_bwd_run;
    (void)err;
    return MR_OK;
}

const struct op_row ISA_NAME(embedding_rows)[] = {
    { "embedding", "ix>x", sizeof(struct embedding), embedding_prepare },
    { "embedding.bwd", "xif>", sizeof(struct embedding), embedding_bwd_prepare },
    { "embedding.part", "ix>x", sizeof(struct embedding), embedding_prepare },
    { "embedding.part.bwd", "xif>", sizeof(struct embedding), embedding_bwd_prepare },
    { 0 },
};
