/* SPDX-License-Identifier: Apache-2.0
 *
 * gradients.c - the main gradients of an exec that trains: which the first micro-batch writes
 * (sole: one instance binds the parameter and one step makes its gradient), which are zeroed and
 * when, and where they may lie over saved values.
 *
 * In a step of one micro-batch a gradient lives from its block's backward to the update, and what
 * a block saved until the end of its backward: the first need not have memory while the last
 * block's values are still there. Blocks save from low addresses to high ones and are run backward
 * from the last, so the gradients begin at the lowest place where no block's reach down into what
 * it or an earlier block still reads. A gradient that is added to is zeroed just before its block's
 * backward if saved values lie there, else with the others at the start of the step.
 */
#include "bind.h"
#include "mrun/shard.h"
#include <stdlib.h>
#include <string.h>

/* Of each parameter: how many instances bind it (2: more than one), and the last that does, whose
 * backward comes first. */
typedef struct users {
    uint32_t n, last;
} users;

static users *find_users(const mri_exec *e)
{
    users *u = mri_alloc((e->params->slots.n + 1) * sizeof *u);
    const mri_tensor_slot *s;
    for (uint32_t i = 0; i < mri_exec_instances(e); i++)
        for (size_t j = 0; j < mri_exec_plan(e, i)->params.n; j++)
            for (uint32_t k = 0; (s = mri_exec_slot(e, i, j, k)); k++) {
                users *x = &u[s - e->params->slots.v];
                x->n += x->n < 2;
                x->last = i;
            }
    return u;
}

uint64_t mri_gradients_over(const mri_exec *e, const uint64_t *reach)
{
    const mri_params *p = e->params;
    uint64_t width = mr_dtype_bytes(p->acc_dtype), from = 0;
    users *u = find_users(e);
    for (size_t i = 0; i < p->slots.n; i++) {
        uint64_t at = p->slots.v[i].at * width;
        if (p->slots.v[i].at < p->trainable && u[i].n && reach[u[i].last] > at + from)
            from = reach[u[i].last] - at;
    }
    free(u);
    return (from + MRI_ARENA_ALIGN - 1) / MRI_ARENA_ALIGN * MRI_ARENA_ALIGN;
}

/* The step of the plan that has a kernel which writes the gradient of its param j, or NULL. */
static const mri_step *writes_first(const mri_plan *pl, size_t j)
{
    for (int phase = MRI_B; phase <= MRI_W; phase++)
        for (size_t i = 0; i < pl->steps[phase].n; i++) {
            const mri_step *s = &pl->steps[phase].v[i];
            const mri_addr *a = &s->in[pl->prog->nodes.v[s->node].n_in - 1];
            if (s->first && a->seg == MRI_SEG_GRAD && a->at == j)
                return s;
        }
    return NULL;
}

static int by_place(const void *x, const void *y)
{
    const mri_tensor_slot *a = *(mri_tensor_slot *const *)x, *b = *(mri_tensor_slot *const *)y;
    return a->at < b->at ? -1 : a->at > b->at;
}

/* The next range is [at, end); neighbours of one time become one. */
#define ADD_RANGE(list, from, end, when) do {                                                     \
        size_t k_ = (list)->n;                                                                    \
        mri_range *last_ = k_ ? &(list)->v[k_ - 1] : NULL;                                        \
        if (last_ && last_->at + last_->n == (from) && last_->before == (when))                   \
            last_->n += (end) - (from);                                                           \
        else if ((end) > (from))                                                                  \
            MRI_PUSH(list, ((mri_range){ (from), (end) - (from), (when) }));                      \
    } while (0)

/* What becomes of a parameter's gradient in the first micro-batch. */
enum { ADDED = 0, WRITTEN, SUMMED };

/* Is its gradient written into a buffer that blocks take in turn? */
static bool in_pieces(const mri_params *p, const mri_tensor_slot *s)
{
    const mri_bucket *b = mri_params_bucket(p, s->at);
    return b && b->strategy >= MR_SHARD_OPTIM_GRADS;
}

/* Alignment gaps stay zero by themselves in memory of their own, but not over saved values, nor in
 * buffers that others had. */
static void list_ranges(mri_exec *e, const users *u, const uint8_t *how)
{
    const mri_params *p = e->params;
    uint64_t clear = e->main_clear / mr_dtype_bytes(p->acc_dtype);
    const mri_tensor_slot **order = mri_alloc((p->slots.n + 1) * sizeof *order);
    size_t n = 0;
    for (size_t i = 0; i < p->slots.n; i++)
        if (p->slots.v[i].at < p->trainable)
            order[n++] = &p->slots.v[i];
    qsort(order, n, sizeof *order, by_place);
    for (size_t i = 0; i < n; i++) {
        const mri_tensor_slot *s = order[i];
        size_t k = (size_t)(s - p->slots.v);
        uint64_t end = i + 1 < n ? order[i + 1]->at : p->trainable;
        bool piece = in_pieces(p, s);
        uint64_t from = how[k] == ADDED ? s->at : e->main_bytes || piece ? s->at + s->n : end;
        uint32_t when = s->at < clear || piece ? u[k].last : MRI_AT_START;
        ADD_RANGE(&e->zeroed, from, end, when);
        if (how[k] == SUMMED)
            ADD_RANGE(&e->summed, s->at, end, MRI_AT_START);
    }
    free(order);
}

void mri_gradients_plan(mri_exec *e)
{
    const mri_params *p = e->params;
    users *u = find_users(e);
    uint8_t *how = mri_alloc(p->slots.n + 1);
    for (uint32_t i = 0; i < mri_exec_instances(e); i++) {
        mri_frame *f = mri_exec_frame(e, 0, i);
        uint8_t *mine = mri_alloc(f->plan->params.n + 1);
        for (size_t j = 0; j < f->plan->params.n; j++) {
            const mri_tensor_slot *slot;
            const mri_step *s = writes_first(f->plan, j);
            for (uint32_t k = 0; s && (slot = mri_exec_slot(e, i, j, k)); k++)
                if (u[slot - p->slots.v].n > 1 || slot->at >= p->trainable)
                    s = NULL;
            for (uint32_t k = 0; s && (slot = mri_exec_slot(e, i, j, k)); k++)
                how[slot - p->slots.v] = s->first_sums ? SUMMED : WRITTEN;
            slot = mri_exec_slot(e, i, j, 0);
            mine[j] = !s ? 0 : in_pieces(p, slot) ? MRI_SOLE_ALWAYS : MRI_SOLE;
        }
        for (uint32_t k = 0; k < e->chunks.v[mri_exec_chunk_of(e, i)].slots; k++)
            mri_exec_frame(e, k, i)->sole = mine;
    }
    list_ranges(e, u, how);
    free(u);
    free(how);
}

mr_status mri_exec_zero(mri_exec *e, uint32_t before, mr_err *err)
{
    uint64_t width = mr_dtype_bytes(e->params->acc_dtype);
    mr_status st = 0;
    for (size_t i = 0; i < e->zeroed.n && !st; i++)
        if (e->zeroed.v[i].before == before)
            st = e->device->ops->fill(e->device->dev, e->device->stream,
                                      mri_params_grad_at(e->params, e->zeroed.v[i].at), 0,
                                      e->zeroed.v[i].n * width, err);
    return st;
}
