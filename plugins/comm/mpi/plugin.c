/* SPDX-License-Identifier: Apache-2.0
 *
 * plugin.c - comm/mpi: ranks that a launcher of MPI started. Opening, groups, leaving.
 *
 * MPI is initialised at most once a process and asks for MPI_THREAD_SERIALIZED: core makes all
 * calls, but those from one thread of its own.
 */
#include "rank.h"
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

static mr_status initialise(mpi_rank *self, mr_err *err)
{
    int already = 0, provided = 0;
    /* The library's own components look for its symbols in the whole process; a plugin is loaded
     * for itself alone. */
    Dl_info where;
    if (dladdr((void *)(uintptr_t)MPI_Init_thread, &where) && where.dli_fname)
        dlopen(where.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
    MPI_Initialized(&already);
    if (already)
        MPI_Query_thread(&provided);
    else if (MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &provided))
        return mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "MPI does not start");
    self->ours = !already;
    if (provided >= MPI_THREAD_SERIALIZED)
        return 0;
    mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "this MPI has thread support %d, and %d is needed",
            provided,
            MPI_THREAD_SERIALIZED);
    mr_hint(err, "install an MPI that was built with thread support");
    return MR_E_COMM;
}

static void read_version(mpi_rank *self)
{
    char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int n = 0;
    MPI_Get_library_version(text, &n);
    snprintf(self->version, sizeof self->version, "%.*s", (int)strcspn(text, ",\n"), text);
}

static void close_rank(void *comm)
{
    mpi_rank *self = comm;
    mr_err ignored = MR_ERR_INIT;
    int over = 0;
    if (!self->broken && !atomic_load(&self->aborted) && !mpi_flush(self, true, &ignored)) {
        for (int i = 0; i < 3; i++)
            if (self->bf16[i] != MPI_OP_NULL)
                MPI_Op_free(&self->bf16[i]);
        if (self->world != MPI_COMM_NULL)
            MPI_Comm_free(&self->world);
        MPI_Finalized(&over);
        if (self->ours && !over)
            MPI_Finalize();
    }
    for (mpi_sent *m = self->sent, *next; m && !self->broken; m = next) {
        next = m->next;
        free(m); /* of a broken rank MPI may still read it */
    }
    free(self);
}

static mr_status open_rank(const mr_host *host, const void *config, const mr_comm_env *env,
                           void **comm, mr_err *err)
{
    mpi_rank *self = calloc(1, sizeof *self);
    int rank = 0, n = 0;
    mr_status st = 0;
    (void)host, (void)config;
    *comm = NULL;
    if (!self)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for comm/mpi");
    self->world = MPI_COMM_NULL;
    self->bf16[0] = self->bf16[1] = self->bf16[2] = MPI_OP_NULL;
    self->timeout_s = env->timeout_s > 0 ? env->timeout_s : 120;
    MR_TRY(initialise(self, err));
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MR_TRY(mpi_check(self, MPI_Comm_dup(MPI_COMM_WORLD, &self->world), "open", "world", err));
    MPI_Comm_set_errhandler(self->world, MPI_ERRORS_RETURN);
    MPI_Comm_rank(self->world, &rank);
    MPI_Comm_size(self->world, &n);
    self->rank = (uint32_t)rank;
    self->n = (uint32_t)n;
    if (!mpi_make_bf16(self)) {
        st = mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "MPI takes no operation for bf16");
        goto out;
    }
    read_version(self);
    *comm = self;
out:
    if (st) {
        self->broken = true;
        close_rank(self);
    }
    return st;
}

static mr_status info(void *comm, mr_comm_info *out, mr_err *err)
{
    const mpi_rank *self = comm;
    (void)err;
    out->rank = self->rank;
    out->world = self->n;
    out->version = self->version;
    return MR_OK;
}

/* MPI_Comm_split waits without end, so all meet before it where waiting has one. */
static mr_status split(void *comm, int32_t color, const char *name, void **group, mr_err *err)
{
    mpi_rank *self = comm;
    MPI_Comm made = MPI_COMM_NULL;
    MPI_Request r;
    int n = 0, index = 0;
    mr_status st = 0;
    *group = NULL;
    MR_TRY(mpi_usable(self, err));
    MR_TRY(mpi_check(self, MPI_Ibarrier(self->world, &r), "split", name, err));
    MR_TRY(mpi_wait(self, &r, 1, "split", name, err));
    MR_TRY(mpi_check(self, MPI_Comm_split(self->world, color < 0 ? MPI_UNDEFINED : color,
                                          (int)self->rank, &made), "split", name, err));
    if (made == MPI_COMM_NULL)
        goto out;
    mpi_group *g = calloc(1, sizeof *g);
    if (!g)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for group %s", name);
    MPI_Comm_set_errhandler(made, MPI_ERRORS_RETURN);
    MPI_Comm_size(made, &n);
    MPI_Comm_rank(made, &index);
    *g = (mpi_group){ .self = self, .comm = made, .n = (uint32_t)n, .index = (uint32_t)index };
    snprintf(g->name, sizeof g->name, "%s", name);
    *group = g;
out:
    return st;
}

static void group_free(void *group)
{
    mpi_group *g = group;
    mr_err ignored = MR_ERR_INIT;
    if (!g->self->broken && !atomic_load(&g->self->aborted) && !mpi_flush(g->self, true, &ignored))
        MPI_Comm_free(&g->comm);
    free(g);
}

static mr_status check(void *comm, mr_err *err)
{
    return mpi_usable(comm, err);
}

static void abort_rank(void *comm)
{
    atomic_store(&((mpi_rank *)comm)->aborted, true);
}

static const mr_comm_ops ops = {
    .size = sizeof ops,
    .flags = MR_COMM_DETERMINISTIC,
    .open = open_rank,
    .close = close_rank,
    .info = info,
    .split = split,
    .group_free = group_free,
    .all_reduce = mpi_all_reduce,
    .all_gather = mpi_all_gather,
    .reduce_scatter = mpi_reduce_scatter,
    .broadcast = mpi_broadcast,
    .all_to_all = mpi_all_to_all,
    .send = mpi_send,
    .receive = mpi_receive,
    .host_gather = mpi_host_gather,
    .check = check,
    .abort = abort_rank,
};

static const mr_unit units[] = {
    { sizeof(mr_unit), 0, "comm", "mpi", "ranks that mpirun or srun started, over MPI", NULL, 0, 0,
      &ops, NULL },
};

MR_PLUGIN_NOTE("org.mrun.comm.mpi", "0.1.0", "comm/mpi");
MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER, "org.mrun.comm.mpi", "0.1.0", "Apache-2.0", "collectives over MPI", units, 1,
    0, NULL, NULL,
};
