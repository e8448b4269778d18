/* SPDX-License-Identifier: Apache-2.0
 *
 * flat.c - what is saved as it lies in memory: the ranges of the flat space that an optimizer
 * updates (dp_reshardable), and a rank's buffers (local). See shares.h.
 *
 * Invariant: equal layouts mean that an element has the same name and number in both: the layout
 * names the sizes of the mesh that matter, and a hash of where every parameter lies.
 */
#include "mrun/shard.h"
#include "shares.h"
#include <stdlib.h>
#include <string.h>

static mri_box line(uint64_t n)
{
    mr_type t = mr_type1("u8", (int64_t)n);
    return mri_box_whole(&t);
}

/* ---- ranges of the flat space --------------------------------------------------------------- */

typedef struct unit { /* a bucket, or a group where there are none */
    uint32_t group, number;
    uint64_t at, n;      /* without the gap that makes it divisible by ranks */
    uint64_t from, to;   /* of its elements, which of the states' are here */
} unit;

static uint64_t used(const mri_params *p, uint64_t at, uint64_t n)
{
    uint64_t end = at;
    for (size_t i = 0; i < p->slots.n; i++) {
        const mri_tensor_slot *s = &p->slots.v[i];
        if (s->at >= at && s->at < at + n && s->at + s->n > end)
            end = s->at + s->n;
    }
    return end - at;
}

static unit unit_at(const mri_params *p, uint32_t i)
{
    unit u = { .number = i };
    if (!p->buckets.n) {
        const mri_pgroup *g = &p->groups.v[i];
        u.group = i;
        u.at = g->at;
        u.n = u.to = used(p, g->at, g->n);
        return u;
    }
    const mri_bucket *b = &p->buckets.v[i];
    bool piece = b->strategy != MR_SHARD_NONE;
    u.group = b->group;
    u.at = b->at;
    u.n = used(p, b->at, b->n);
    u.from = piece ? b->own - b->at : 0;
    u.to = piece ? u.from + b->own_n : u.n;
    u.to = u.to < u.n ? u.to : u.n;
    u.from = u.from < u.to ? u.from : u.to;
    return u;
}

static uint32_t units(const mri_params *p)
{
    return (uint32_t)(p->buckets.n ? p->buckets.n : p->groups.n);
}

/* Ranks whose units have one name hold the same elements, or ranges of them. */
static char *unit_name(const mri_params *p, const unit *u, const char *state, const mri_mesh *m)
{
    const mri_pgroup *g = &p->groups.v[u->group];
    mri_str s = { 0 };
    mri_str_fmt(&s, "%s.range%u.pp%u", state, u->number, m->i_pp);
    if (g->split & MRI_AXIS_TP)
        mri_str_fmt(&s, ".tp%u", m->i_tp);
    if (g->split & MRI_AXIS_ETP)
        mri_str_fmt(&s, ".etp%u", m->i_etp);
    if (g->split & MRI_AXIS_EP)
        mri_str_fmt(&s, ".ep%u", m->i_ep);
    return mri_str_take(&s);
}

/* where every parameter lies within its unit */
static uint64_t hash_of(const mri_params *p)
{
    uint64_t h = 0;
    for (uint32_t i = 0; i < units(p); i++) {
        unit u = unit_at(p, i);
        for (size_t k = 0; k < p->slots.n; k++) {
            const mri_tensor_slot *s = &p->slots.v[k];
            uint64_t where[2] = { s->at - u.at, s->n };
            if (s->at < u.at || s->at >= u.at + u.n)
                continue;
            h = mri_hash_str(h, s->name);
            h = mri_hash(h, where, sizeof where);
        }
        h = mri_hash(h, &i, sizeof i);
    }
    return h;
}

void mri_shares_flat(mri_session_shares *x, const mri_mesh *m)
{
    mri_session *s = x->session;
    const mri_params *p = &s->params;
    for (size_t k = 0; s->update && k < s->update->states.n; k++) {
        const mri_opt_state *o = &s->update->states.v[k];
        for (uint32_t i = 0; i < units(p); i++) {
            unit u = unit_at(p, i);
            if (u.group != o->group || u.from == u.to)
                continue;
            mri_fragment f = { .state = o->name, .from = u.from, .to = u.to, .dtype = p->acc_dtype,
                               .data = mri_update_state(s->update, o, u.at + u.from) };
            mri_box box = line(u.n);
            mri_shares_add(x, true, unit_name(p, &u, o->name, m), &box, &f);
        }
    }
    /* pipeline stages differ in what they hold, so each rank's layout names its own stage's hash
     * only where there is one stage; the ranges' names tell stages apart in any case */
    x->layout = m->pp > 1 ? mri_format("tp %u, pp %u, ep %u, etp %u", m->tp, m->pp, m->ep, m->etp)
                          : mri_format("tp %u, pp 1, ep %u, etp %u, ranges %016llx", m->tp, m->ep,
                                       m->etp, (unsigned long long)hash_of(p));
}

/* ---- a rank's buffers ------------------------------------------------------------------------- */

static void buffer(mri_session_shares *x, bool optimizer, char *name, const char *dtype, uint64_t n,
                   void *data)
{
    mri_fragment f = { .state = "", .to = n, .dtype = dtype, .data = data };
    mri_box box = line(n);
    if (n && data)
        mri_shares_add(x, optimizer, name, &box, &f);
    else
        free(name);
}

void mri_shares_local(mri_session_shares *x, const mri_mesh *m)
{
    mri_session *s = x->session;
    mri_params *p = &s->params;
    buffer(x, false, mri_strdup("weights"), p->dtype, p->weights_n, p->weights);
    if (p->master != p->weights)
        buffer(x, false, mri_strdup("masters"), p->acc_dtype, p->masters_n, p->master);
    buffer(x, false, mri_strdup("rests"), "i16", p->rest_n, p->rest);
    for (size_t k = 0; s->update && k < s->update->states.n; k++) {
        const mri_opt_state *o = &s->update->states.v[k];
        buffer(x, true, mri_format("%s.group%u", o->name, o->group), p->acc_dtype,
               mri_params_states(p, o->group), o->data);
    }
    x->layout = mri_format("rank %u of %u; tp %u, cp %u, dp %u, pp %u, ep %u, etp %u; ranges "
                           "%016llx", m->rank, m->world, m->tp, m->cp, m->dp, m->pp, m->ep, m->etp,
                           (unsigned long long)hash_of(p));
}
