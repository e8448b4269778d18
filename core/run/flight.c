/* SPDX-License-Identifier: Apache-2.0
 * flight.c - see flight.h. */
#include "flight.h"
#include "core/mesh/world.h"
#include "exchange.h"

enum { PLACES = 2 * MRI_COMM_PENDING };

static mr_status submit(mri_device *d, const mri_plan *plan, const mri_step *s, const mr_buf *in,
                        const mr_buf *out, uint64_t *ticket, mr_err *err)
{
    static const uint32_t kinds[] = { [MRI_STEP_REDUCE] = MRI_COMM_ALL_REDUCE,
                                      [MRI_STEP_GATHER] = MRI_COMM_ALL_GATHER,
                                      [MRI_STEP_SCATTER] = MRI_COMM_REDUCE_SCATTER,
                                      [MRI_STEP_SHIFT] = MRI_COMM_SHIFT,
                                      [MRI_STEP_BLOCKS] = MRI_COMM_ALL_TO_ALL };
    const mri_node *n = &plan->prog->nodes.v[s->node];
    const mr_type *types[2 * MRI_MAX_OPERANDS];
    if (s->comm == MRI_STEP_EXCHANGE) {
        mr_call c = mri_node_call(plan->prog, n, types);
        return mri_exchange_submit(d, s->ref, &c, in, out, ticket, err);
    }
    const mr_type *x = &mri_val(plan->prog, n->in[0])->type;
    const mr_type *y = &mri_val(plan->prog, n->out[0])->type;
    mri_comm_job job = { .kind = kinds[s->comm], .group = s->group, .op = MR_COMM_SUM,
                         .peer = s->by, .in = in[0].data, .out = out[0].data, .dtype = x->dtype,
                         .n = (uint64_t)mr_numel(s->comm == MRI_STEP_SCATTER ? y : x) };
    if (s->comm == MRI_STEP_BLOCKS)
        job.n /= d->world->group[s->group].n;
    return mri_comm_submit(d->world, &job, ticket, err);
}

mr_status mri_flight_submit(mri_device *d, const mri_plan *plan, const mri_step *s,
                            const mr_buf *in, const mr_buf *out, mri_flight *f, mr_err *err)
{
    const mri_node *n = &plan->prog->nodes.v[s->node];
    if (s->comm == MRI_STEP_SLICE) {
        uint64_t bytes = mr_bytes(&mri_val(plan->prog, n->out[0])->type);
        return d->ops->copy(d->dev, d->stream, out[0].data, (char *)in[0].data + s->index * bytes,
                            bytes, err);
    }
    if (!d->world)
        return mr_fail(err, MR_E_COMM, MR_BLAME_HOST, "the program is one of several ranks', and "
                       "this one runs alone");
    mr_status st = submit(d, plan, s, in, out, &f->ticket[s->order % PLACES], err);
    if (st)
        return st;
    f->last = s->order;
    return s->wait_after ? mri_flight_wait(d, f, s->order, err) : 0;
}

mr_status mri_flight_wait(mri_device *d, mri_flight *f, uint32_t order, mr_err *err)
{
    mr_status st = mri_comm_wait(d->world, f->ticket[order % PLACES], err);
    if (order >= f->last)
        f->last = 0;
    return st;
}

mr_status mri_flight_end(mri_device *d, mri_flight *f, mr_err *err)
{
    return f->last ? mri_flight_wait(d, f, f->last, err) : 0;
}
