/* SPDX-License-Identifier: Apache-2.0
 * world.c - opening and closing a rank's view of the job; see world.h. agree.c has what the ranks
 * then tell each other. */
#include "agree.h"
#include "channel.h"
#include "meet.h"
#include "rendezvous.h"
#include <stdlib.h>
#include <string.h>

/* ---- the plugin ----------------------------------------------------------------------------- */

static mr_status do_open(void *ctx, mr_err *err)
{
    mri_world *w = ctx;
    const mri_choice *c = mri_config_choice(w->config, "comm", 0);
    mr_status st = w->ops->open(w->host, c->config, &w->env, &w->comm, err);
    if (st)
        return st;
    w->info.size = sizeof w->info;
    return w->ops->info(w->comm, &w->info, err);
}

/* Is group g the same ranks as an earlier one? The grid makes that so on all ranks or on none. */
static bool same_ranks(const mri_mesh *m, uint32_t a, uint32_t b)
{
    uint32_t *x, *y, n, k, i, j;
    mri_mesh_group(m, a, &x, &n, &i);
    mri_mesh_group(m, b, &y, &k, &j);
    bool same = n == k && !memcmp(x, y, n * sizeof *x);
    free(x);
    free(y);
    return same;
}

/* An earlier group whose handle serves, or g. Who is in ENDS differs from rank to rank. */
static uint32_t split_as(const mri_mesh *m, uint32_t g)
{
    for (uint32_t e = 0; e < g && g != MRI_GROUP_ENDS; e++)
        if (e != MRI_GROUP_ENDS && same_ranks(m, e, g))
            return e;
    return g;
}

static mr_status do_split(void *ctx, mr_err *err)
{
    mri_world *w = ctx;
    mr_status st = 0;
    for (uint32_t g = 0; g < MRI_GROUPS && !st; g++) {
        bool some = g == MRI_GROUP_ENDS ? w->mesh.pp > 1 : w->group[g].n > 1;
        uint32_t as = split_as(&w->mesh, g);
        if (!some)
            continue;
        if (as != g)
            w->group[g].handle = w->group[as].handle;
        else
            st = w->ops->split(w->comm, mri_mesh_color(&w->mesh, g), mri_group_name(g),
                               &w->group[g].handle, err);
    }
    return st;
}

static mr_status do_close(void *ctx, mr_err *err)
{
    mri_world *w = ctx;
    (void)err;
    for (uint32_t g = MRI_GROUPS; g-- > 0;) {
        if (w->group[g].handle && split_as(&w->mesh, g) == g)
            w->ops->group_free(w->group[g].handle);
        w->group[g].handle = NULL;
    }
    if (w->comm)
        w->ops->close(w->comm);
    w->comm = NULL;
    return 0;
}

static void fill_groups(mri_world *w)
{
    for (uint32_t g = 0; g < MRI_GROUPS; g++)
        w->group[g] = (mri_group){ NULL, mri_mesh_group_size(&w->mesh, g),
                                   mri_mesh_group_index(&w->mesh, g) };
}

/* The plugin's ranks must be those that the launcher told of: a binary started by one launcher
 * with the variables of another finds itself alone, N times. */
static mr_status check_info(const mri_world *w, mr_err *err)
{
    const mr_comm_env *e = &w->env;
    if (w->info.rank == e->rank && w->info.world == e->world)
        return 0;
    mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "%s says rank %u of %u, the launcher (%s) rank %u of %u",
            w->info.version, w->info.rank, w->info.world, e->launcher, e->rank, e->world);
    mr_hint(err, "start mrun by the launcher that belongs to this comm plugin");
    return MR_E_COMM;
}

static mr_status open_plugin(mri_world *w, mr_err *err)
{
    mr_status st = 0;
    MR_TRY(mri_channel_call(w, do_open, w, err));
    MR_TRY(check_info(w, err));
    if (!w->rendezvous && !w->env.threads)
        MR_TRY(mri_meet_after(w, err));
    MR_TRY(mri_agree_same(w, err));
    MR_TRY(mri_channel_call(w, do_split, w, err));
out:
    return st;
}

/* ---- worlds ---------------------------------------------------------------------------------- */

static mri_world *new_world(const mri_config *config)
{
    mri_world *w = mri_alloc(sizeof *w);
    w->config = config;
    mri_mesh_alone(&w->mesh);
    fill_groups(w);
    return w;
}

mr_status mri_world_fake(const mri_config *config, uint32_t rank, uint32_t n, mri_world **out,
                         mr_err *err)
{
    mri_world *w = new_world(config);
    mr_status st = mri_mesh_make(&config->mesh, n, rank, &w->mesh, err);
    if (!st)
        fill_groups(w);
    *out = w;
    if (st) {
        free(w);
        *out = NULL;
    }
    return st;
}

/* rank and world as the plugin for planning has them in its section */
static mr_status open_fake(const mri_config *config, const mr_host *host, const mri_choice *c,
                           mri_world **out, mr_err *err)
{
    const mr_comm_ops *ops = c->unit->table;
    mr_comm_env env = { .size = sizeof env, .world = 1, .launcher = "none" };
    mr_comm_info info = { .size = sizeof info };
    void *comm = NULL;
    mr_status st = ops->open(host, c->config, &env, &comm, err);
    if (!st)
        st = ops->info(comm, &info, err);
    if (!st)
        st = mri_world_fake(config, info.rank, info.world, out, err);
    if (comm)
        ops->close(comm);
    return st;
}

static mr_status find_ranks(mri_world *w, uint32_t thread, void *threads, uint32_t n_threads,
                            mri_launcher *l, mr_err *err)
{
    w->env = (mr_comm_env){ .size = sizeof w->env, .rank = thread, .world = n_threads,
                            .local_rank = thread, .local_world = n_threads, .launcher = "threads",
                            .threads = threads, .timeout_s = w->config->comm.timeout };
    if (threads)
        return 0;
    if (w->ops->flags & MR_COMM_THREADS) /* a job that has no threads to give it: rank 0 alone */
        return w->env.world = 1, 0;
    mr_status st = mri_launch_find(l, err);
    w->env.rank = l->rank;
    w->env.world = l->world;
    w->env.local_rank = l->local_rank;
    w->env.local_world = l->local_world;
    w->env.launcher = l->name;
    return st;
}

mr_status mri_world_open(mri_registry *reg, const mri_config *config, uint32_t thread,
                         void *threads, uint32_t n_threads, mri_world **out, mr_err *err)
{
    const mri_choice *c = mri_config_choice(config, "comm", 0);
    mri_launcher launcher = { .name = "none" };
    mr_status st = 0;
    *out = NULL;
    if (c && ((const mr_comm_ops *)c->unit->table)->flags & MR_COMM_NO_PEERS)
        return open_fake(config, mri_registry_host(reg), c, out, err);
    mri_world *w = new_world(config);
    w->host = mri_registry_host(reg);
    if (!c) {
        *out = w;
        return 0;
    }
    w->ops = c->unit->table;
    MR_TRY(find_ranks(w, thread, threads, n_threads, &launcher, err));
    MR_TRY(mri_mesh_make(&config->mesh, w->env.world, w->env.rank, &w->mesh, err));
    fill_groups(w);
    if (w->mesh.world == 1) {
        w->ops = NULL;
        goto out;
    }
    MR_TRY(mri_channel_open(w, err));
    if (!(w->ops->flags & MR_COMM_STREAM))
        MR_TRY(open_plugin(w, err));
    else if (!threads)
        MR_TRY(mri_meet_before(w, &launcher, err));
out:
    if (st) {
        w->lost = true; /* all find the same, or wait in vain */
        mri_world_close(w);
        w = NULL;
    }
    *out = w;
    return st;
}

mr_status mri_world_device(mri_world *w, const mri_comm_device *d, mr_err *err)
{
    mr_status st = 0;
    if (!w)
        return 0;
    w->device = *d;
    if (!w->channel)
        return 0;
    MR_TRY(mri_channel_device(w, err));
    if (!w->comm) {
        w->env.backend = d->ops;
        w->env.device = d->dev;
        MR_TRY(open_plugin(w, err));
    }
out:
    return st;
}

void mri_world_leave_device(mri_world *w)
{
    mr_err ignored = MR_ERR_INIT;
    if (!w->channel) {
        w->device = (mri_comm_device){ 0 };
        return;
    }
    if (w->ops->flags & MR_COMM_STREAM)
        do_close(w, &ignored); /* its communicators live in the device's memory */
    mri_channel_leave(w);
}

uint32_t mri_world_device_index(const mri_world *w, uint32_t count)
{
    return mri_world_alone(w) || count <= 1 ? 0 : w->env.local_rank;
}

mr_status mri_world_settle(const mri_world *w, mri_config *config, mr_err *err)
{
    mri_cfg_train *t = &config->train;
    int64_t dp = w->mesh.dp, unit = t->micro_batch * dp;
    config->mesh.dp = dp;
    if (!t->global_batch)
        t->global_batch = unit;
    if (t->global_batch % unit == 0)
        return 0;
    mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
            "[train] global_batch = %lld is not a multiple of micro_batch x dp = %lld x %lld",
            (long long)t->global_batch, (long long)t->micro_batch, (long long)dp);
    mr_hint(err, "run: mrun explain train.global_batch");
    return MR_E_PROFILE_CONFLICT;
}

void mri_world_close(mri_world *w)
{
    mr_err ignored = MR_ERR_INIT;
    if (!w)
        return;
    mri_rendezvous_close(w->rendezvous, w->lost);
    if (w->channel && mri_channel_call(w, do_close, w, &ignored))
        do_close(w, &ignored); /* after a failure the channel runs nothing any more */
    mri_channel_close(w);
    free(w);
}
