/* SPDX-License-Identifier: Apache-2.0
 *
 * bytes.h - what a rank's collectives of one step should send, by the plans alone, and, of rows
 * that travel to experts, by the counts that the step itself recorded.
 */
#ifndef TEST_PARALLEL_BYTES_H
#define TEST_PARALLEL_BYTES_H
#include "core/run/session.h"
#include <stdlib.h>
#include <string.h>

/* What the plans of a step say: the collectives of every block, forward and backward, for each
 * micro-batch; and the sums over tp of gradients that are partial there. */
static inline uint64_t bytes_planned(const mri_session *s, uint32_t micros)
{
    static const uint32_t kinds[] = { [MRI_STEP_REDUCE] = MRI_COMM_ALL_REDUCE,
                                      [MRI_STEP_GATHER] = MRI_COMM_ALL_GATHER,
                                      [MRI_STEP_SCATTER] = MRI_COMM_REDUCE_SCATTER,
                                      [MRI_STEP_SHIFT] = MRI_COMM_SHIFT };
    uint64_t bytes = 0;
    mri_comm_job j = { .dtype = "f32", .kind = MRI_COMM_ALL_REDUCE };
    for (size_t i = 0; i < s->train->frames.n; i++)
        for (uint8_t phase = MRI_F; phase <= MRI_B; phase++) {
            const mri_plan *p = s->train->frames.v[i].plan;
            for (size_t k = 0; k < p->steps[phase].n; k++) {
                const mri_step *x = &p->steps[phase].v[k];
                const mri_node *n = &p->prog->nodes.v[x->node];
                bool scatter = x->comm == MRI_STEP_SCATTER;
                if (x->comm == MRI_STEP_KERNEL || x->comm == MRI_STEP_SLICE)
                    continue;
                j.kind = kinds[x->comm];
                j.peer = x->by;
                j.dtype = mri_val(p->prog, n->in[0])->type.dtype;
                j.n = (uint64_t)mr_numel(&mri_val(p->prog, scatter ? n->out[0] : n->in[0])->type);
                bytes += micros * mri_comm_bytes(&j, s->world->group[x->group].n, x->index);
            }
        }
    for (size_t i = 0; i < s->params.buckets.n; i++) {
        const mri_bucket *b = &s->params.buckets.v[i];
        j = (mri_comm_job){ .kind = MRI_COMM_ALL_REDUCE, .n = b->n, .dtype = "f32" };
        if (s->params.groups.v[b->group].partial & MRI_AXIS_TP)
            bytes += mri_comm_bytes(&j, s->world->group[MRI_GROUP_TP].n, 0);
    }
    return bytes;
}

/* Rows to experts, watched op by op. Every rank's offsets by expert, which each ep_send and
 * ep_return is given, say how many rows leave this rank: those for the experts of others, or those
 * that others had sent. */
typedef struct bytes_watch {
    uint64_t bytes;
} bytes_watch;

static inline mr_status bytes_see(void *ctx, const mri_trace_step *t, mr_err *err)
{
    bytes_watch *w = ctx;
    const char *op = t->node->def->id;
    bool sends = !strcmp(op, "ep_send"), returns = !strcmp(op, "ep_return");
    (void)err;
    if (!strcmp(op, "ep_counts"))
        w->bytes += mr_bytes(t->call->in[0]) * (uint64_t)(mr_attr_i(t->call, "ranks", 1) - 1);
    if (!sends && !returns)
        return 0;
    const mr_type *x = t->call->in[0], *all = t->call->in[1];
    const int32_t *offset = t->in[1].data;
    int64_t ranks = all->dim[0], experts = all->dim[1] - 1, own = experts / ranks;
    int64_t me = mr_attr_i(t->call, "index", 0), rows = 0;
    for (int64_t r = 0; r < ranks; r++) {
        const int32_t *from = offset + (sends ? me : r) * (experts + 1);
        int64_t to = sends ? r : me;
        rows += r == me ? 0 : from[(to + 1) * own] - from[to * own];
    }
    w->bytes += (uint64_t)rows * (mr_bytes(x) / (uint64_t)x->dim[0]);
    return 0;
}

#endif
