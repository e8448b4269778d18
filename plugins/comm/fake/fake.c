/* SPDX-License-Identifier: Apache-2.0
 *
 * comm/fake - one rank of many without the others: for plans of runs that no machine at hand can
 * hold. It answers who the rank is; nothing can be sent.
 */
#include "mrun/comm.h"
#include <stdlib.h>

typedef struct fake {
    int64_t ranks, rank;
} fake;

/* [comm.fake] */
static const mr_opt opts[] = {
    MR_OPT_RANGE(fake, MR_T_INT, ranks, "ranks", "8", 1, 1048576, "how many ranks the job has"),
    MR_OPT_RANGE(fake, MR_T_INT, rank, "rank", "0", 0, 1048575, "which of them is looked at"),
};

static mr_status open_fake(const mr_host *host, const void *config, const mr_comm_env *env,
                           void **comm, mr_err *err)
{
    const fake *c = config;
    (void)host, (void)env;
    *comm = NULL;
    if (c->rank >= c->ranks) {
        mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
                "[comm.fake] rank = %lld of ranks = %lld", (long long)c->rank, (long long)c->ranks);
        mr_hint(err, "ranks go from 0 to ranks - 1");
        return MR_E_PROFILE_CONFLICT;
    }
    fake *f = malloc(sizeof *f);
    if (!f)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for comm/fake");
    *f = *c;
    *comm = f;
    return MR_OK;
}

static mr_status info(void *comm, mr_comm_info *out, mr_err *err)
{
    const fake *f = comm;
    (void)err;
    out->rank = (uint32_t)f->rank;
    out->world = (uint32_t)f->ranks;
    out->version = "fake";
    return MR_OK;
}

static mr_status nothing_runs(mr_err *err)
{
    mr_fail(err, MR_E_COMM, MR_BLAME_USER, "comm/fake is for planning: it has no peers to talk to");
    mr_hint(err, "plan with mrun plan; run with [comm] plugin = sim, mpi or nccl");
    return MR_E_COMM;
}

static mr_status split(void *comm, int32_t color, const char *name, void **group, mr_err *err)
{
    (void)comm, (void)color, (void)name, (void)err;
    *group = NULL;
    return nothing_runs(err);
}

static void group_free(void *group)
{
    (void)group;
}

static mr_status all_reduce(void *g, void *s, const void *in, void *out, uint64_t n, const char *d,
                            uint32_t op, mr_err *err)
{
    (void)g, (void)s, (void)in, (void)out, (void)n, (void)d, (void)op;
    return nothing_runs(err);
}

static mr_status all_gather(void *g, void *s, const void *in, void *out, uint64_t n, const char *d,
                            mr_err *err)
{
    (void)g, (void)s, (void)in, (void)out, (void)n, (void)d;
    return nothing_runs(err);
}

static mr_status broadcast(void *g, void *s, void *data, uint64_t n, const char *d, uint32_t root,
                           mr_err *err)
{
    (void)g, (void)s, (void)data, (void)n, (void)d, (void)root;
    return nothing_runs(err);
}

static mr_status all_to_all(void *g, void *s, const void *in, const uint64_t *send,
                            const uint64_t *send_at, void *out, const uint64_t *receive,
                            const uint64_t *receive_at, mr_err *err)
{
    (void)g, (void)s, (void)in, (void)send, (void)send_at, (void)out, (void)receive;
    (void)receive_at;
    return nothing_runs(err);
}

static mr_status send_to(void *g, void *s, const void *data, uint64_t n, uint32_t to, mr_err *err)
{
    (void)g, (void)s, (void)data, (void)n, (void)to;
    return nothing_runs(err);
}

static mr_status receive(void *g, void *s, void *data, uint64_t n, uint32_t from, mr_err *err)
{
    (void)g, (void)s, (void)data, (void)n, (void)from;
    return nothing_runs(err);
}

static mr_status host_gather(void *comm, const void *mine, uint64_t bytes, void *all, mr_err *err)
{
    (void)comm, (void)mine, (void)bytes, (void)all;
    return nothing_runs(err);
}

static const mr_comm_ops ops = {
    .size = sizeof ops,
    .flags = MR_COMM_NO_PEERS,
    .open = open_fake,
    .close = free,
    .info = info,
    .split = split,
    .group_free = group_free,
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .reduce_scatter = all_reduce,
    .broadcast = broadcast,
    .all_to_all = all_to_all,
    .send = send_to,
    .receive = receive,
    .host_gather = host_gather,
};

static const mr_unit units[] = {
    { sizeof(mr_unit), 0, "comm", "fake", "one rank's plan of a job of many, without the others",
      opts, sizeof opts / sizeof *opts, sizeof(fake), &ops, NULL },
};

MR_PLUGIN_NOTE("org.mrun.comm.fake", "0.1.0", "comm/fake");
MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER, "org.mrun.comm.fake", "0.1.0", "Apache-2.0",
    "plans of many ranks on one machine", units, 1, 0, NULL, NULL,
};
