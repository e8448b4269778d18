/* SPDX-License-Identifier: Apache-2.0
 *
 * world.h - one rank's view of the job: its mesh, its comm plugin, the groups, and one thread (or
 * stream) on which collectives run beside the compute.
 *
 * Invariant: all ranks submit the same work on each group in the same order; work of one world
 * runs in the order of submission. A world of one rank has no plugin, and every call here is
 * then a copy or nothing.
 */
#ifndef MRI_WORLD_H
#define MRI_WORLD_H
#include "core/plugin/registry.h"
#include "mesh.h"
#include "mrun/comm.h"

typedef struct mri_group {
    void *handle; /* the plugin's; NULL: this rank alone, or not a member, or a fake world */
    uint32_t n, index;
} mri_group;

/* What collectives need to know of the rank's open device. */
typedef struct mri_comm_device {
    const mr_backend_ops *ops;
    void *dev, *stream; /* the compute stream */
    bool host_memory;   /* the host may touch its pointers */
} mri_comm_device;

/* What a rank's heartbeat tells: how many collectives it has come to, and if it is in one now. */
typedef struct mri_pulse {
    _Atomic uint64_t jobs;
    _Atomic uint32_t waits;
} mri_pulse;

typedef struct mri_world {
    mri_mesh mesh;
    const mr_comm_ops *ops; /* NULL: alone, or fake */
    void *comm;             /* NULL: not open yet (stream plugins, until mri_world_device()) */
    mr_comm_env env;
    mr_comm_info info;
    mri_group group[MRI_GROUPS];
    mri_comm_device device; /* set by mri_world_device() */
    struct mri_channel *channel;
    struct mri_rendezvous *rendezvous; /* of ranks that are processes */
    mri_pulse pulse;
    const mri_config *config;
    const mr_host *host;
    bool lost; /* a rank or a collective failed: nothing more can be sent */
    uint64_t sent[MRI_GROUPS], received[MRI_GROUPS]; /* bytes that this rank's collectives moved,
                                                        by the formulae of mri_comm_bytes() */
} mri_world;

/* What the launcher's variables say (launch.c): torchrun, Slurm, Open MPI, PMI; two that
 * contradict each other are an error that names both. world 1 and launcher "none": no launcher. */
typedef struct mri_launcher {
    uint32_t rank, world, local_rank, local_world;
    const char *name;  /* static */
    char source[160];  /* "OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4" */
    char address[256]; /* of rank 0; "": unknown */
    uint32_t port;
} mri_launcher;
mr_status mri_launch_find(mri_launcher *out, mr_err *err);

/* Opens comm, mesh and groups as the profile says. `thread`: rank of this thread under a plugin of
 * threads, with what world_create() gave, and the number of ranks; else 0, NULL, 0. Compares a
 * hash of profile and binary over the ranks. A profile without [comm] gives a world of one. A
 * plugin whose collectives run on the device's streams is opened by mri_world_device() only: its
 * mesh is known before, its ranks agree by the rendezvous. */
mr_status mri_world_open(mri_registry *reg, const mri_config *config, uint32_t thread,
                         void *threads, uint32_t n_threads, mri_world **out, mr_err *err);
/* The device whose memory the step's collectives read and write: once, before the first of them.
 * All ranks call it. Its device index on this host: mri_world_device_index(). */
mr_status mri_world_device(mri_world *w, const mri_comm_device *d, mr_err *err);
/* The device is about to close: waits for what was submitted, and lets go of its memory. */
void mri_world_leave_device(mri_world *w);
uint32_t mri_world_device_index(const mri_world *w, uint32_t count);
/* Values of a profile that hang on the number of ranks: dp = auto, and global_batch by it. */
mr_status mri_world_settle(const mri_world *w, mri_config *config, mr_err *err);
/* fake: the world as rank `rank` of `n` sees it, for planning; nothing can run */
mr_status mri_world_fake(const mri_config *config, uint32_t rank, uint32_t n, mri_world **out,
                         mr_err *err);
void mri_world_close(mri_world *w);

/* The calls below are made by all ranks of the world, in the same order, and wait for them. */

/* Agreement before going on: every rank's status, and the first error (of the lowest rank) on
 * all, so that all stop with the same exit code. */
mr_status mri_world_agree(mri_world *w, mr_status st, mr_err *err);
/* `bytes` of each rank to all */
mr_status mri_world_gather(mri_world *w, const void *mine, uint64_t bytes, void *all, mr_err *err);
/* sums n doubles over this rank's group of that id, in the order of ranks */
mr_status mri_world_sum(mri_world *w, uint32_t group, double *x, size_t n, mr_err *err);

/* is it so on any rank? */
mr_status mri_world_any(mri_world *w, bool *x, mr_err *err);

/* This rank alone: it failed with *err, and cannot go on. The others' calls that wait, or the next
 * that they make, return the same error; *err becomes what all ranks end with. Returns its code. */
mr_status mri_world_fail(mri_world *w, mr_status st, mr_err *err);
/* rank 0 is gone, so nobody speaks for all */
bool mri_world_orphan(const mri_world *w);
static inline bool mri_world_alone(const mri_world *w)
{
    return !w || w->mesh.world == 1;
}
static inline bool mri_world_threads(const mri_world *w) /* its ranks are threads of a process */
{
    return w && w->env.threads;
}
static inline bool mri_world_first(const mri_world *w) /* the rank that prints and writes logs */
{
    return !w || w->mesh.rank == 0;
}

/* ---- collectives of the step: on device memory, in order, beside the compute stream --------- */
enum mri_comm_kind {
    MRI_COMM_ALL_REDUCE = 0, MRI_COMM_ALL_GATHER, MRI_COMM_REDUCE_SCATTER, MRI_COMM_BROADCAST,
    MRI_COMM_ALL_TO_ALL, MRI_COMM_SEND, MRI_COMM_RECEIVE, MRI_COMM_SHIFT
};

typedef struct mri_comm_job {
    uint32_t kind, group, op, peer; /* peer: index in the group of send, receive, broadcast; SHIFT:
                                       `in` goes so many places further, `out` comes from as far */
    const void *in;
    void *out;
    uint64_t n;        /* elements: of one rank's part; of send and receive all                   */
    const char *dtype;
    /* ALL_TO_ALL: bytes by peer, on the host; submitting copies them. Parts lie end to end. NULL:
     * n elements to each                                                                         */
    const uint64_t *send, *receive;
} mri_comm_job;

/* Submits: `in` is read and `out` written once all that was enqueued on the device's compute
 * stream before this call is done. *ticket (or NULL) tells it apart for mri_comm_wait(). */
mr_status mri_comm_submit(mri_world *w, const mri_comm_job *job, uint64_t *ticket, mr_err *err);
/* What is enqueued on the compute stream from now on sees the job's results, and may overwrite what
 * it read. Stream plugins: the stream waits; others: the caller does. An error of the job, or of
 * any before it, is returned here. Ticket 0: all that was submitted. */
mr_status mri_comm_wait(mri_world *w, uint64_t ticket, mr_err *err);
/* both */
mr_status mri_comm_run(mri_world *w, const mri_comm_job *job, mr_err *err);
/* Bytes that one rank sends in a job on a group of n: ring counts, (n-1)/n of the whole once for
 * gather and scatter, twice for all_reduce; `index` is the rank's own in the group. */
uint64_t mri_comm_bytes(const mri_comm_job *job, uint32_t n, uint32_t index);
/* Told when each job begins and ends, by whoever runs it: the thread of collectives, where `stream` is
 * NULL, or the caller around enqueuing it on that stream. */
typedef struct mri_comm_watch {
    void (*fn)(void *ctx, const mri_comm_job *job, void *stream, bool ends);
    void *ctx;
} mri_comm_watch;
/* NULL: nobody is told. The watch stays the caller's; nothing may be under way. */
void mri_comm_watch_with(mri_world *w, const mri_comm_watch *watch);
/* NULL: submit and wait can be captured into a device graph; else why not (static) */
const char *mri_comm_obstacle(const mri_world *w);

#endif
