/* SPDX-License-Identifier: Apache-2.0
 *
 * comm/nccl - collectives between GPUs by NVIDIA's NCCL, enqueued on the streams of backend/cuda
 * and fit for capture into its graphs. Groups are communicators split from the world's. The id of
 * the world's travels by the launcher's rendezvous, after every rank has been heard of: NCCL
 * itself would wait for ever for a rank that never comes.
 *
 * Invariant: groups are freed before their world closes.
 */
#include "nccl_world.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct nccl_config { /* [comm.nccl] */
    const char *library;
    int64_t max_ctas, min_ctas;
} nccl_config;

/* ---- opening ----------------------------------------------------------------------------------- */

static mr_status check_env(const mr_comm_env *e, mr_err *err)
{
    if (!e->backend || !e->device || !MR_CAN(e->backend, ext) ||
        !e->backend->ext(e->device, "mrun.native_stream/1")) {
        mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
                "[comm] plugin = nccl needs a backend with CUDA streams");
        mr_hint(err, "set [backend] plugin = cuda, or [comm] plugin = mpi for the CPU");
        return MR_E_PROFILE_CONFLICT;
    }
    if (e->world > 1 && !e->rendezvous) {
        mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "the launcher (%s) gave no address of rank 0, where "
                "NCCL's ranks could meet", e->launcher);
        mr_hint(err, "set MASTER_ADDR and MASTER_PORT in the environment of every rank");
        return MR_E_COMM;
    }
    return MR_OK;
}

/* Rank 0 hears of every rank, then gives the id. */
static mr_status meet(nccl_world *w, ncclUniqueId *id, mr_err *err)
{
    const mr_rendezvous *m = w->env.rendezvous;
    mr_status st = MR_OK;
    char key[48];
    uint32_t here = 1;
    if (w->env.rank == 0) {
        TRY_NCCL(w, NULL, ncclGetUniqueId(id), "making NCCL's id of the world");
        for (uint32_t r = 1; r < w->env.world && !st; r++) {
            snprintf(key, sizeof key, "nccl/here/%u", r);
            st = m->get(m->self, key, r, &here, sizeof here, err);
        }
        return st || w->env.world == 1 ? st : m->put(m->self, "nccl/id", id, sizeof *id, err);
    }
    snprintf(key, sizeof key, "nccl/here/%u", w->env.rank);
    st = m->put(m->self, key, &here, sizeof here, err);
    return st ? st : m->get(m->self, "nccl/id", 0, id, sizeof *id, err);
}

static void release(nccl_world *w)
{
    const mr_backend_ops *b = w->env.backend;
    if (w->mine)
        b->free(w->env.device, w->mine, w->room);
    if (w->all)
        b->free(w->env.device, w->all, w->room * w->env.world);
    w->mine = w->all = NULL;
}

static void close_world(void *comm)
{
    nccl_world *w = comm;
    if (!w)
        return;
    if (w->context)
        nccl_enter(w);
    release(w);
    if (w->stream)
        w->env.backend->stream_destroy(w->env.device, w->stream);
    if (w->comm && !w->aborted)
        w->lib.ncclCommDestroy(w->comm);
    nccl_lib_close(&w->lib);
    free(w);
}

static mr_status open_world(const mr_host *host, const void *config, const mr_comm_env *env,
                            void **comm, mr_err *err)
{
    const nccl_config *c = config;
    nccl_world *w = calloc(1, sizeof *w);
    ncclUniqueId id;
    mr_status st;
    (void)host;
    *comm = NULL;
    if (!w)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for comm/nccl");
    memset(&id, 0, sizeof id);
    w->env = *env;
    w->config = (ncclConfig_t)NCCL_CONFIG_INITIALIZER;
    if (c->max_ctas)
        w->config.maxCTAs = (int)c->max_ctas;
    if (c->min_ctas)
        w->config.minCTAs = (int)c->min_ctas;
    MR_TRY(check_env(env, err));
    MR_TRY(nccl_lib_open(c->library, &w->lib, err));
    MR_TRY(env->backend->stream_create(env->device, 0, &w->stream, err)); /* makes it current */
    if (w->lib.get_context(&w->context) || !w->context) {
        st = mr_fail(err, MR_E_DEVICE, MR_BLAME_ENV,
                     "comm/nccl finds no CUDA context of the device");
        goto out;
    }
    MR_TRY(meet(w, &id, err));
    ncclResult_t r = w->lib.ncclCommInitRankConfig(&w->comm, (int)env->world, id, (int)env->rank,
                                                   &w->config);
    if (r != ncclSuccess)
        st = nccl_fail(&w->lib, NULL, r, "joining NCCL's world", err);
out:
    if (st) {
        close_world(w);
        w = NULL;
    }
    *comm = w;
    return st;
}

static mr_status info(void *comm, mr_comm_info *out, mr_err *err)
{
    const nccl_world *w = comm;
    (void)err;
    out->rank = w->env.rank;
    out->world = w->env.world;
    out->version = w->lib.version;
    return MR_OK;
}

/* ---- groups ------------------------------------------------------------------------------------ */

static mr_status split(void *comm, int32_t color, const char *name, void **group, mr_err *err)
{
    nccl_world *w = comm;
    char what[96];
    ncclComm_t made = NULL;
    *group = NULL;
    nccl_enter(w);
    snprintf(what, sizeof what, "splitting NCCL's world into groups \"%s\"", name);
    TRY_NCCL(w, w->comm, ncclCommSplit(w->comm, color < 0 ? NCCL_SPLIT_NOCOLOR : color,
                                       (int)w->env.rank, &made, &w->config), what);
    if (!made)
        return MR_OK;
    nccl_group *g = calloc(1, sizeof *g);
    int n = 0;
    if (!g || w->lib.ncclCommCount(made, &n) != ncclSuccess) {
        free(g);
        w->lib.ncclCommDestroy(made);
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no room for group %s", name);
    }
    *g = (nccl_group){ w, made, (uint32_t)n, w->first };
    w->first = g;
    *group = g;
    return MR_OK;
}

static void group_free(void *group)
{
    nccl_group *g = group;
    if (!g)
        return;
    nccl_world *w = g->world;
    for (nccl_group **p = &w->first; *p; p = &(*p)->next)
        if (*p == g) {
            *p = g->next;
            break;
        }
    nccl_enter(w);
    if (!w->aborted)
        w->lib.ncclCommDestroy(g->comm);
    free(g);
}

/* ---- what the host asks ------------------------------------------------------------------------ */

static mr_status make_room(nccl_world *w, uint64_t bytes, mr_err *err)
{
    const mr_backend_ops *b = w->env.backend;
    if (bytes <= w->room)
        return MR_OK;
    release(w);
    w->room = bytes < 4096 ? 4096 : bytes;
    mr_status st = b->alloc(w->env.device, w->room, MR_MEM_ARENA, &w->mine, err);
    return st ? st : b->alloc(w->env.device, w->room * w->env.world, MR_MEM_ARENA, &w->all, err);
}

static mr_status host_gather(void *comm, const void *mine, uint64_t bytes, void *all, mr_err *err)
{
    nccl_world *w = comm;
    const mr_backend_ops *b = w->env.backend;
    mr_status st = make_room(w, bytes, err);
    nccl_enter(w);
    if (!st)
        st = b->copy(w->env.device, w->stream, w->mine, mine, bytes, err);
    if (st)
        return st;
    TRY_NCCL(w, w->comm, ncclAllGather(w->mine, w->all, bytes, ncclUint8, w->comm, w->stream),
             "gathering from all ranks");
    st = b->copy(w->env.device, w->stream, all, w->all, bytes * w->env.world, err);
    return st ? st : b->sync(w->env.device, w->stream, err);
}

static mr_status check_one(const nccl_world *w, ncclComm_t comm, mr_err *err)
{
    ncclResult_t state = ncclSuccess;
    ncclResult_t r = w->lib.ncclCommGetAsyncError(comm, &state);
    if (r == ncclSuccess)
        r = state;
    return r == ncclSuccess || r == ncclInProgress
               ? MR_OK
               : nccl_fail(&w->lib, comm, r, "a collective under way failed", err);
}

static mr_status check(void *comm, mr_err *err)
{
    const nccl_world *w = comm;
    mr_status st = check_one(w, w->comm, err);
    for (const nccl_group *g = w->first; g && !st; g = g->next)
        st = check_one(w, g->comm, err);
    return st;
}

static void abort_world(void *comm)
{
    nccl_world *w = comm;
    if (w->aborted)
        return;
    w->aborted = 1;
    nccl_enter(w);
    for (nccl_group *g = w->first; g; g = g->next)
        w->lib.ncclCommAbort(g->comm);
    w->lib.ncclCommAbort(w->comm);
}

/* Memory that NCCL may register and, between GPUs of a host, map into its peers. */
static mr_status mem_alloc(void *comm, uint64_t bytes, void **p, mr_err *err)
{
    nccl_world *w = comm;
    nccl_enter(w);
    TRY_NCCL(w, w->comm, ncclMemAlloc(p, bytes), "allocating memory for collectives");
    return MR_OK;
}

static void mem_free(void *comm, void *p, uint64_t bytes)
{
    nccl_world *w = comm;
    (void)bytes;
    nccl_enter(w);
    if (p)
        w->lib.ncclMemFree(p);
}

/* ---- the unit ---------------------------------------------------------------------------------- */

static const mr_opt opts[] = {
    MR_OPT(nccl_config, MR_T_STR, library, "library", NULL,
           "path of libnccl.so.2; left out: the usual places"),
    MR_OPT_RANGE(nccl_config, MR_T_INT, max_ctas, "max_ctas", "0", 0, 64,
                 "thread blocks of the GPU that a collective may take; 0: NCCL decides"),
    MR_OPT_RANGE(nccl_config, MR_T_INT, min_ctas, "min_ctas", "0", 0, 64,
                 "thread blocks that it takes at least; 0: NCCL decides"),
};

static const mr_comm_ops table = {
    .size = sizeof(mr_comm_ops),
    .flags = MR_COMM_STREAM | MR_COMM_CAPTURABLE | MR_COMM_DETERMINISTIC,
    .open = open_world,
    .close = close_world,
    .info = info,
    .split = split,
    .group_free = group_free,
    .all_reduce = nccl_all_reduce,
    .all_gather = nccl_all_gather,
    .reduce_scatter = nccl_reduce_scatter,
    .broadcast = nccl_broadcast,
    .all_to_all = nccl_all_to_all,
    .send = nccl_send,
    .receive = nccl_receive,
    .group_begin = nccl_group_begin,
    .group_end = nccl_group_end,
    .host_gather = host_gather,
    .check = check,
    .abort = abort_world,
    .alloc = mem_alloc,
    .free = mem_free,
};

static const mr_unit unit = {
    .size = sizeof(mr_unit),
    .kind = "comm",
    .name = "nccl",
    .doc = "collectives between GPUs (NCCL), on the streams of backend/cuda",
    .opts = opts,
    .n_opts = sizeof opts / sizeof *opts,
    .config_size = sizeof(nccl_config),
    .table = &table,
};

MR_PLUGIN_NOTE("org.mrun.comm_nccl", "0.1.0", "comm/nccl");

MR_EXPORT extern const mr_plugin MR_PLUGIN_SYMBOL;
const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.mrun.comm_nccl",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "NCCL collectives",
    .units = &unit,
    .n_units = 1,
};
