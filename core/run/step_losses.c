/* SPDX-License-Identifier: Apache-2.0
 * step_losses.c - what the losses of a step's micro-batches come to, over all ranks; see step.h. */
#include "step.h"
#include <string.h>

void mri_step_add_loss(const mri_exec *e, size_t loss, double x, mri_step_result *r)
{
    const uint32_t room = sizeof r->aux / sizeof *r->aux;
    const char *name = e->losses.v[loss].name;
    uint32_t k = 0, instances = 0;
    if (!strcmp(name, "lm_loss")) {
        r->loss += x;
        return;
    }
    while (k < r->n_aux && strcmp(r->aux_name[k], name))
        k++;
    if (k == room)
        return;
    if (k == r->n_aux)
        r->aux_name[r->n_aux++] = name;
    for (size_t j = 0; j < e->losses.n; j++)
        instances += !strcmp(e->losses.v[j].name, name);
    r->aux[k] += x / instances;
}

void mri_step_mean_losses(mri_step_result *r)
{
    double tokens = r->weight > 0 ? r->weight : 1;
    r->loss /= tokens;
    for (uint32_t k = 0; k < r->n_aux; k++)
        r->aux[k] /= tokens;
}

static uint32_t instances_with(const mri_exec *e, const char *loss)
{
    uint32_t n = 0;
    for (size_t i = 0; i < e->losses.n; i++)
        n += !strcmp(e->losses.v[i].name, loss);
    return n;
}

/* Each stage of a pipeline has the losses of its own instances: it lists all that the model has,
 * and of their means its part. */
static void list_losses(const mri_session *s, mri_step_result *r)
{
    enum { ROOM = sizeof r->aux / sizeof *r->aux };
    const mri_stage *stage = &s->relay.stage;
    mri_step_result own = *r;
    if (mri_relay_alone(&s->relay))
        return;
    r->n_aux = 0;
    for (size_t l = 0; l < stage->losses.n && r->n_aux < ROOM; l++) {
        const mri_stage_loss *loss = &stage->losses.v[l];
        if (!strcmp(loss->name, "lm_loss"))
            continue;
        r->aux_name[r->n_aux] = loss->name;
        r->aux[r->n_aux] = 0;
        for (uint32_t k = 0; k < own.n_aux; k++)
            if (!strcmp(own.aux_name[k], loss->name))
                r->aux[r->n_aux] = own.aux[k] * instances_with(s->train, loss->name) /
                                   loss->instances;
        r->n_aux++;
    }
}

/* Sums over micro-batches of this rank become those over all. A loss is made once in each replica:
 * by the last stage, or by the stages that have it, and there by the first of the ranks that made
 * the same. */
static mr_status sum_losses(mri_session *s, mri_step_result *r, mr_err *err)
{
    enum { ROOM = 1 + sizeof r->aux / sizeof *r->aux };
    double x[ROOM] = { r->loss };
    mr_status st = 0;
    if (mri_world_alone(s->world))
        return 0;
    for (uint32_t k = 0; k < r->n_aux; k++)
        x[1 + k] = r->aux[k];
    for (int k = 0; k < ROOM && s->world->mesh.i_tp; k++)
        x[k] = 0;
    st = mri_world_sum(s->world, MRI_GROUP_WORLD, x, ROOM, err);
    r->loss = x[0];
    for (uint32_t k = 0; k < r->n_aux; k++)
        r->aux[k] = x[1 + k];
    return st;
}

mr_status mri_step_losses(mri_session *s, const mri_pending *p, mri_step_result *r, mr_err *err)
{
    for (uint32_t m = 0; m < p->read; m++)
        for (size_t i = 0; i < s->train->losses.n; i++)
            mri_step_add_loss(s->train, i, mri_feed_loss(&s->feed, p->slot, m, i), r);
    list_losses(s, r);
    mr_status st = sum_losses(s, r, err);
    mri_step_mean_losses(r);
    r->loss *= p->spoil ? p->spoil : 1;
    return st;
}
