/* SPDX-License-Identifier: Apache-2.0
 *
 * check_shard.c - what a shard plugin must do with a small model: put every part into one bucket,
 * in order, of one group, with a strategy that the part's flags allow. Told by a builder that
 * only looks.
 */
#include "check.h"
#include "mrun/shard.h"
#include <string.h>

/* Three blocks, two groups of theirs, experts, one part that is read in f32, one that is shared. */
static const mr_shard_part shard_parts[] = {
    { 0, 0, 0, 4, 4096, "embed." },
    { 0, 1, 0, 4, 60000000, "layers.0." },
    { 0, 2, 0, 4, 64, "layers.1." },
    { MR_SHARD_SHARED, UINT32_MAX, 0, 4, 1024, "" },
    { MR_SHARD_EXPERT, 1, 1, 2, 8192, "layers.0." },
    { MR_SHARD_EXPERT, 2, 1, 2, 8192, "layers.1." },
    { MR_SHARD_F32, 2, 2, 4, 32, "layers.1." },
};
enum { SHARD_PARTS = sizeof shard_parts / sizeof *shard_parts };

typedef struct seen {
    check *c;
    uint32_t next, buckets, strategy[SHARD_PARTS];
} seen;

static mr_status bucket(void *plan, uint32_t first, uint32_t n, uint32_t strategy, mr_err *err)
{
    seen *s = plan;
    (void)err;
    if (first != s->next || !n || n > SHARD_PARTS - first) {
        check_fail(s->c, "a bucket of %u parts from %u on, where part %u of %d is the next", n,
                   first, s->next, SHARD_PARTS);
        return MR_E_ARG;
    }
    for (uint32_t i = first; i < first + n; i++) {
        const mr_shard_part *x = &shard_parts[first], *y = &shard_parts[i];
        uint32_t most = y->flags & MR_SHARD_SHARED ? MR_SHARD_OPTIM
                      : y->flags & MR_SHARD_F32    ? MR_SHARD_OPTIM_GRADS
                                                   : MR_SHARD_OPTIM_GRADS_PARAMS;
        if (y->group != x->group || (y->flags ^ x->flags) & MR_SHARD_SHARED ||
            (strategy >= MR_SHARD_OPTIM_GRADS && y->instance != x->instance))
            check_fail(s->c, "parts %u and %u cannot be one bucket under strategy %u", first, i,
                       strategy);
        if (strategy > most)
            check_fail(s->c, "strategy %u for part %u, whose flags allow %u at most", strategy, i,
                       most);
    }
    s->next = first + n;
    s->buckets++;
    return MR_OK;
}

static mr_status buffers(void *plan, uint32_t weights, uint32_t gradients, mr_err *err)
{
    (void)err;
    if (!weights || !gradients)
        check_fail(((seen *)plan)->c, "%u buffers for weights, %u for gradients", weights,
                   gradients);
    return MR_OK;
}

static mr_status overlap(void *plan, uint32_t flags, mr_err *err)
{
    (void)err;
    if (flags & ~(uint32_t)(MR_SHARD_OVERLAP_REDUCE | MR_SHARD_OVERLAP_GATHER))
        check_fail(((seen *)plan)->c, "overlap flags 0x%x", flags);
    return MR_OK;
}

static mr_status reduce_in(void *plan, const char *dtype, mr_err *err)
{
    (void)err;
    if (strcmp(dtype, "f32") && strcmp(dtype, "bf16"))
        check_fail(((seen *)plan)->c, "gradients travel in %s", dtype);
    return MR_OK;
}

void check_shard_plans(check *c)
{
    static const mr_shard_builder builder = { sizeof builder, 0, bucket, buffers, overlap,
                                              reduce_in };
    const mr_shard_ops *ops = c->unit->table;
    const mr_shard_model model = { sizeof model, SHARD_PARTS, shard_parts, 3, 4, "bf16", "f32" };
    seen s = { .c = c };
    mr_err err = MR_ERR_INIT;
    void *shard;
    if (!check_make(c, &shard))
        return;
    if (ops->plan(shard, &model, &builder, &s, &err) && c->verdict != CHECK_FAIL)
        check_fail_err(c, "plan()", &err);
    if (c->verdict != CHECK_FAIL && s.next != SHARD_PARTS)
        check_fail(c, "parts from %u on are in no bucket", s.next);
    check_say(c, "%u buckets of %d parts", s.buckets, SHARD_PARTS);
    check_drop(c, shard);
}
