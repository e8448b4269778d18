/* SPDX-License-Identifier: Apache-2.0
 * fragments.c - see fragments.h. */
#include "fragments.h"
#include "mrun/shard.h"

/* Over the axes that do not split the group. */
static bool first_copy(const mri_pgroup *g, const mri_mesh *m)
{
    const struct {
        uint32_t axis, at;
    } dense[] = { { MRI_AXIS_TP, m->i_tp }, { MRI_AXIS_CP, m->i_cp }, { MRI_AXIS_DP, m->i_dp } },
      expert[] = { { MRI_AXIS_ETP, m->i_etp }, { MRI_AXIS_EP, m->i_ep },
                   { MRI_AXIS_EDP, m->i_edp } };
    for (int i = 0; i < 3; i++) {
        uint32_t axis = g->expert ? expert[i].axis : dense[i].axis;
        if (!(g->split & axis) && (g->expert ? expert[i].at : dense[i].at))
            return false;
    }
    return true;
}

bool mri_piece_first(const mri_params *p, uint64_t at, const mri_mesh *m)
{
    const mri_bucket *b = mri_params_bucket(p, at);
    mri_mesh x = *m;
    uint32_t g = b ? b->group : 0;
    while (!b && g + 1 < p->groups.n && at - p->groups.v[g].at >= p->groups.v[g].n)
        g++;
    if (b && b->strategy != MR_SHARD_NONE) { /* one has it in each copy, and copies are neighbours */
        x.i_cp = x.i_dp = p->groups.v[g].expert ? 0 : (m->i_cp + m->cp * m->i_dp) / b->ranks;
        x.i_edp = 0;
    }
    return first_copy(&p->groups.v[g], &x);
}

static void add(const mri_params *p, const mri_mesh *m, mri_fragment f, mri_fragments *out)
{
    f.writes = mri_piece_first(p, f.slot->at, m) && !f.slot->twin;
    if (f.to > f.from)
        MRI_PUSH(out, f);
}

/* The range of a slot's elements that this rank's piece of its bucket has. */
static void own_range(const mri_params *p, const mri_tensor_slot *s, uint64_t *from, uint64_t *to)
{
    const mri_bucket *b = mri_params_bucket(p, s->at);
    *from = 0;
    *to = s->n;
    if (!b)
        return;
    *from = b->own > s->at ? b->own - s->at : 0;
    *to = b->own + b->own_n > s->at ? b->own + b->own_n - s->at : 0;
    *to = *to < s->n ? *to : s->n;
    *from = *from < *to ? *from : *to;
}

void mri_fragments_of(const mri_params *p, const mri_update *u, const mri_mesh *mesh,
                      const mri_tensor_slot *slot, mri_fragments *out)
{
    mri_fragment f = { .slot = slot, .dtype = mri_params_exact_dtype(p, slot) };
    own_range(p, slot, &f.from, &f.to);
    uint64_t at = slot->at + f.from;
    f.data = mri_params_master(p, at);
    if (!mri_params_masters(p, at))
        f.data = mri_params_kept_weight(p, at);
    add(p, mesh, f, out);
    for (size_t j = 0; u && j < u->states.n; j++) {
        const mri_opt_state *x = &u->states.v[j];
        if (x->group != slot->group || f.to == f.from)
            continue;
        mri_fragment state = { slot, x->name, f.from, f.to, p->acc_dtype, false,
                               mri_update_state(u, x, slot->at + f.from) };
        add(p, mesh, state, out);
    }
}

mr_status mri_fragment_read(const mri_params *p, mri_device *d, const mri_fragment *f, uint64_t at,
                            uint64_t n, void *host, mr_err *err)
{
    size_t width = mr_dtype_bytes(f->dtype);
    return f->data ? mri_device_read(d, host, (char *)f->data + at * width, n * width, err)
                   : mri_params_get_part(p, d, f->slot, f->from + at, n, host, err);
}

mr_status mri_fragment_write(mri_params *p, mri_device *d, const mri_fragment *f, uint64_t at,
                             uint64_t n, const void *host, mr_err *err)
{
    size_t width = mr_dtype_bytes(f->dtype);
    return f->state ? mri_device_write(d, (char *)f->data + at * width, host, n * width, err)
                    : mri_params_set_part(p, d, f->slot, f->from + at, n, host, f->dtype, err);
}
