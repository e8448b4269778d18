/* SPDX-License-Identifier: Apache-2.0
 * mesh.c - see mesh.h. */
#include "mesh.h"
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    uint32_t axes; /* of one of the two grids */
} groups[MRI_GROUPS] = {
    [MRI_GROUP_TP] = { "tp", MRI_AXIS_TP },
    [MRI_GROUP_CP] = { "cp", MRI_AXIS_CP },
    [MRI_GROUP_DP] = { "dp", MRI_AXIS_DP },
    [MRI_GROUP_DP_CP] = { "dp_cp", MRI_AXIS_DP | MRI_AXIS_CP },
    [MRI_GROUP_PP] = { "pp", MRI_AXIS_PP },
    [MRI_GROUP_EP] = { "ep", MRI_AXIS_EP },
    [MRI_GROUP_ETP] = { "etp", MRI_AXIS_ETP },
    [MRI_GROUP_EDP] = { "edp", MRI_AXIS_EDP },
    [MRI_GROUP_TP_CP] = { "tp_cp", MRI_AXIS_TP | MRI_AXIS_CP },
    [MRI_GROUP_DP_IN] = { "dp_in", 0 },
    [MRI_GROUP_DP_OUT] = { "dp_out", 0 },
    [MRI_GROUP_ENDS] = { "ends", MRI_AXIS_PP },
    [MRI_GROUP_WORLD] = { "world", 0 },
};

const char *mri_group_name(uint32_t group)
{
    return groups[group].name;
}

int32_t mri_group_find(const char *name)
{
    for (int32_t g = 0; g < MRI_GROUPS; g++)
        if (!strcmp(groups[g].name, name))
            return g;
    return -1;
}

/* ---- sizes ---------------------------------------------------------------------------------- */

static mr_status illegal(mr_err *err, const char *hint, const char *fmt, ...) MR_PRINTF(3, 4);

static mr_status illegal(mr_err *err, const char *hint, const char *fmt, ...)
{
    char what[240];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER, "[mesh] %s", what);
    mr_hint(err, "%s", hint);
    return MR_E_PROFILE_CONFLICT;
}

static void coordinates(mri_mesh *m)
{
    uint32_t r = m->rank, inner = m->tp * m->cp * m->dp;
    m->i_tp = r % m->tp;
    m->i_cp = r / m->tp % m->cp;
    m->i_dp = r / (m->tp * m->cp) % m->dp;
    m->i_pp = r / inner;
    m->i_etp = r % m->etp;
    m->i_ep = r / m->etp % m->ep;
    m->i_edp = r % inner / (m->etp * m->ep);
}

mr_status mri_mesh_make(const mri_cfg_mesh *c, uint32_t world, uint32_t rank, mri_mesh *m,
                        mr_err *err)
{
    int64_t model = c->tp * c->pp * c->cp; /* each is at most 2^20 */
    int64_t dp = c->dp ? c->dp : world / model;
    memset(m, 0, sizeof *m);
    if (rank >= world)
        return mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "rank %u of %u ranks", rank, world);
    if (model > world || dp * model != world)
        return illegal(err, c->dp ? "start dp*tp*cp*pp ranks, or set dp = auto"
                                  : "start a multiple of tp*cp*pp ranks, or change the axes",
                       "dp = %s%.0lld, tp = %lld, cp = %lld, pp = %lld do not make the %u ranks that "
                       "were started", c->dp ? "" : "auto", (long long)c->dp, (long long)c->tp,
                       (long long)c->cp, (long long)c->pp, world);
    int64_t dense = c->tp * c->cp * dp, experts = c->etp * c->ep;
    if (dense % experts)
        return illegal(err, "etp*ep must divide tp*cp*dp: the experts lie on the same ranks",
                       "ep = %lld with etp = %lld does not divide tp*cp*dp = %lld ranks",
                       (long long)c->ep, (long long)c->etp, (long long)dense);
    if (c->etp > 1) {
        mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER,
                "[mesh] etp = %lld: an expert is whole on its rank", (long long)c->etp);
        mr_hint(err, "set etp = 1; more ep ranks hold fewer experts each");
        return MR_E_UNSUPPORTED;
    }
    if (dp * c->cp % c->copies)
        return illegal(err, "copies must divide dp*cp",
                       "copies = %lld of sharded parameters over dp*cp = %lld ranks",
                       (long long)c->copies, (long long)(dp * c->cp));
    if (c->ep > 1 && c->tp > 1 && !c->sequence_parallel)
        return illegal(err, "set sequence_parallel = true: without it tp ranks would send the same "
                            "tokens to the experts", "ep = %lld and tp = %lld without sequence "
                       "parallelism", (long long)c->ep, (long long)c->tp);
    if (c->pad_to_capacity && !(c->capacity_factor > 0))
        return illegal(err, "set capacity_factor, by which an expert has a capacity; 1 is the mean",
                       "pad_to_capacity without capacity_factor");
    *m = (mri_mesh){ .rank = rank, .world = world, .tp = (uint32_t)c->tp, .cp = (uint32_t)c->cp,
                     .dp = (uint32_t)dp, .pp = (uint32_t)c->pp, .vpp = (uint32_t)c->vpp,
                     .ep = (uint32_t)c->ep, .etp = (uint32_t)c->etp,
                     .edp = (uint32_t)(dense / experts), .copies = (uint32_t)c->copies,
                     .sequence = c->tp > 1 && c->sequence_parallel,
                     .dispatch_bound = c->dispatch_bound,
                     .gather_experts = c->dispatcher && !strcmp(c->dispatcher, "allgather"),
                     .equal_blocks = c->dispatcher && !strcmp(c->dispatcher, "alltoall_padded"),
                     .capacity_factor = c->capacity_factor,
                     .drop_by_position = c->capacity_policy &&
                                         !strcmp(c->capacity_policy, "position"),
                     .pad_to_capacity = c->pad_to_capacity,
                     .ring = c->cp_comm_type && !strcmp(c->cp_comm_type, "p2p") };
    coordinates(m);
    return 0;
}

void mri_mesh_alone(mri_mesh *m)
{
    *m = (mri_mesh){ .world = 1, .tp = 1, .cp = 1, .dp = 1, .pp = 1, .vpp = 1, .ep = 1, .etp = 1,
                     .edp = 1, .copies = 1 };
}

/* ---- groups ---------------------------------------------------------------------------------- */

/* Ranks at which rank r's group begins to differ: all of its members have the same color. Within
 * dp x cp the first dp*cp/copies ranks hold the first copy, and so on (DP_IN, DP_OUT). */
static int32_t color_of(const mri_mesh *m, uint32_t rank, uint32_t group)
{
    mri_mesh x = *m;
    x.rank = rank;
    coordinates(&x);
    uint32_t axes = groups[group].axes;
    uint32_t in = x.dp * x.cp / x.copies, at = x.i_cp + x.cp * x.i_dp;
    uint32_t fixed = x.i_tp + x.tp * x.i_pp; /* of groups within dp x cp */
    switch (group) {
    case MRI_GROUP_WORLD: return 0;
    case MRI_GROUP_DP_IN: return (int32_t)(fixed * x.copies + at / in);
    case MRI_GROUP_DP_OUT: return (int32_t)(fixed * in + at % in);
    case MRI_GROUP_ENDS:
        if (x.pp == 1 || (x.i_pp && x.i_pp + 1 != x.pp))
            return -1;
    }
    if (axes & (MRI_AXIS_ETP | MRI_AXIS_EP | MRI_AXIS_EDP))
        return (int32_t)((axes & MRI_AXIS_ETP ? 0 : x.i_etp) +
                         x.etp * ((axes & MRI_AXIS_EP ? 0 : x.i_ep) +
                                  x.ep * ((axes & MRI_AXIS_EDP ? 0 : x.i_edp) + x.edp * x.i_pp)));
    return (int32_t)((axes & MRI_AXIS_TP ? 0 : x.i_tp) +
                     x.tp * ((axes & MRI_AXIS_CP ? 0 : x.i_cp) +
                             x.cp * ((axes & MRI_AXIS_DP ? 0 : x.i_dp) +
                                     x.dp * (axes & MRI_AXIS_PP ? 0 : x.i_pp))));
}

int32_t mri_mesh_color(const mri_mesh *m, uint32_t group)
{
    return color_of(m, m->rank, group);
}

void mri_mesh_group(const mri_mesh *m, uint32_t group, uint32_t **ranks, uint32_t *n,
                    uint32_t *index)
{
    int32_t mine = mri_mesh_color(m, group);
    uint32_t *all = mri_alloc(m->world * sizeof *all), count = 0;
    *index = 0;
    for (uint32_t r = 0; r < m->world; r++) {
        if (r == m->rank)
            *index = count;
        if (r == m->rank || (mine >= 0 && color_of(m, r, group) == mine))
            all[count++] = r;
    }
    *ranks = all;
    *n = count;
}

uint32_t mri_mesh_group_size(const mri_mesh *m, uint32_t group)
{
    uint32_t *ranks, n, index;
    mri_mesh_group(m, group, &ranks, &n, &index);
    free(ranks);
    return n;
}

uint32_t mri_mesh_group_index(const mri_mesh *m, uint32_t group)
{
    uint32_t *ranks, n, index;
    mri_mesh_group(m, group, &ranks, &n, &index);
    free(ranks);
    return index;
}

void mri_mesh_print(const mri_mesh *m, mri_str *out)
{
    mri_str_fmt(out, "rank %u of %u: tp %u/%u cp %u/%u dp %u/%u pp %u/%u", m->rank, m->world,
                m->i_tp, m->tp, m->i_cp, m->cp, m->i_dp, m->dp, m->i_pp, m->pp);
    if (m->vpp > 1)
        mri_str_fmt(out, " vpp %u", m->vpp);
    if (m->ep * m->etp > 1)
        mri_str_fmt(out, "; experts: etp %u/%u ep %u/%u edp %u/%u", m->i_etp, m->etp, m->i_ep,
                    m->ep, m->i_edp, m->edp);
    if (m->copies > 1)
        mri_str_fmt(out, "; %u copies", m->copies);
    mri_str_add(out, m->sequence ? "; sequence parallel\n" : "\n");
}
