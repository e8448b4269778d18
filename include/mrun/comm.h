/* SPDX-License-Identifier: Apache-2.0
 *
 * comm.h - unit kind "comm": the ranks of one job, and what they tell each other. Core decides
 * which ranks form a group and what is sent when; a plugin moves bytes.
 *
 * Two kinds of plugin. One with MR_COMM_STREAM enqueues every collective on the stream that it is
 * given (NCCL): the call returns at once, buffers are the device's, and the stream orders it with
 * kernels. One without (MPI, sim) has done the collective when the call returns: buffers are host
 * memory, and core waits for the device and stages what the host cannot reach.
 *
 * Every member of a group makes the same calls on it in the same order, on one thread (core
 * gives each world one thread for them). Sums are in the order of ranks, or at least in an order
 * that depends on nothing but the group and the size, where MR_COMM_DETERMINISTIC is set.
 * A call that fails leaves the group unusable: core aborts the world and stops.
 */
#ifndef MRUN_COMM_H
#define MRUN_COMM_H
#include "backend.h"
#ifdef __cplusplus
extern "C" {
#endif

enum { /* mr_comm_ops.flags */
    MR_COMM_STREAM = 1,        /* collectives are enqueued on a stream of the backend       */
    MR_COMM_CAPTURABLE = 2,    /* they may be recorded into a device graph                  */
    MR_COMM_DETERMINISTIC = 4, /* equal inputs give equal bits                              */
    MR_COMM_THREADS = 8,       /* ranks are threads of one process: see world_create()      */
    MR_COMM_NO_PEERS = 16      /* one rank alone plans as if the others were there (fake):
                                  nothing can run                                           */
};

enum { MR_COMM_SUM = 0, MR_COMM_MAX, MR_COMM_MIN }; /* reductions; of f32 f64 bf16 i32 i64 u8 */

/* Host service "mrun.rendezvous/1": small data by key between the ranks of a job, over TCP to
 * rank 0, for plugins that must exchange an address before they can talk (ncclUniqueId). */
typedef struct mr_rendezvous {
    uint32_t size, pad;
    void *self;
    mr_status (*put)(void *self, const char *key, const void *data, uint64_t bytes, mr_err *);
    /* waits until the key is put, at most the timeout; the error names the key and the rank
     * that should have put it (`from`) */
    mr_status (*get)(void *self, const char *key, uint32_t from, void *data, uint64_t bytes,
                     mr_err *);
} mr_rendezvous; /* all calls [any-thread] */

/* Who this rank is, by the launcher's variables. */
typedef struct mr_comm_env {
    uint32_t size, rank, world, local_rank, local_world, pad;
    const char *launcher; /* "torchrun" "slurm" "openmpi" "pmi" "threads" "none"            */
    void *threads;        /* MR_COMM_THREADS: what world_create() gave; else NULL           */
    const mr_rendezvous *rendezvous; /* NULL where the launcher gave no address             */
    const mr_backend_ops *backend;   /* the rank's open device; NULL where there is none    */
    void *device;
    double timeout_s;     /* after which a peer counts as lost                              */
} mr_comm_env;

typedef struct mr_comm_info {
    uint32_t size, rank, world, pad;
    const char *version; /* "Open MPI 4.1.4", "NCCL 2.28.9"; static */
} mr_comm_info;

/* Counts are elements; `n` of gather and scatter is what one rank gives or gets. in == out is
 * allowed for all_reduce and broadcast; all_gather's `in` may be this rank's part of `out`, and
 * reduce_scatter's `out` this rank's part of `in`. All calls but abort() [comm]: the world's comm
 * thread. */
typedef struct mr_comm_ops {
    uint32_t size, flags;
    /* MR_COMM_THREADS: how many ranks the profile asks for, and what they share; else NULL. */
    uint32_t (*world_size)(const void *config);                                     /* [main] */
    mr_status (*world_create)(const void *config, void **threads, mr_err *);        /* [main] */
    void (*world_destroy)(void *threads);                                           /* [main] */

    mr_status (*open)(const mr_host *, const void *config, const mr_comm_env *, void **comm,
                      mr_err *);
    void (*close)(void *comm);
    mr_status (*info)(void *comm, mr_comm_info *, mr_err *);
    /* A group of every color, ordered by rank; all ranks of the world call it. color < 0: this
     * rank is in none, *group NULL. The world itself is split(comm, 0, "world"). */
    mr_status (*split)(void *comm, int32_t color, const char *name, void **group, mr_err *);
    void (*group_free)(void *group);

    mr_status (*all_reduce)(void *group, void *stream, const void *in, void *out, uint64_t n,
                            const char *dtype, uint32_t op, mr_err *);
    mr_status (*all_gather)(void *group, void *stream, const void *in, void *out, uint64_t n,
                            const char *dtype, mr_err *);
    mr_status (*reduce_scatter)(void *group, void *stream, const void *in, void *out, uint64_t n,
                                const char *dtype, uint32_t op, mr_err *);
    mr_status (*broadcast)(void *group, void *stream, void *data, uint64_t n, const char *dtype,
                           uint32_t root, mr_err *);
    /* byte counts by peer, on the host; peer p's part begins where that of p-1 ends, unless
     * displacements are given (bytes; NULL: end to end) */
    mr_status (*all_to_all)(void *group, void *stream, const void *in, const uint64_t *send,
                            const uint64_t *send_at, void *out, const uint64_t *receive,
                            const uint64_t *receive_at, mr_err *);
    /* Point to point. send() may return before the peer has received, but `data` may be
     * written again then (host plugins copy it); in a stream plugin the stream says so. Messages
     * of one pair in one group arrive in the order sent. */
    mr_status (*send)(void *group, void *stream, const void *data, uint64_t bytes, uint32_t to,
                      mr_err *);
    mr_status (*receive)(void *group, void *stream, void *data, uint64_t bytes, uint32_t from,
                         mr_err *);
    /* Calls between the two are one operation (ncclGroupStart); NULL where that means nothing. */
    mr_status (*group_begin)(void *comm, mr_err *);
    mr_status (*group_end)(void *comm, mr_err *);

    /* Small host data of every rank of the world to all, in order of ranks; waits. `bytes` each. */
    mr_status (*host_gather)(void *comm, const void *mine, uint64_t bytes, void *all, mr_err *);
    /* Has a peer been lost or a collective failed since? Waits for nothing. May be NULL. */
    mr_status (*check)(void *comm, mr_err *);
    /* Makes calls that wait return with an error, on this rank; the world is unusable then.
     * [any-thread] May be NULL. */
    void (*abort)(void *comm);
    /* Memory for buffers that collectives touch (shared, registered); NULL: any memory serves. */
    mr_status (*alloc)(void *comm, uint64_t bytes, void **p, mr_err *);
    void (*free)(void *comm, void *p, uint64_t bytes);
    /* As abort(), with the reason: calls of the other ranks that wait, or that they make from now
     * on, return *why as their own error. Where ranks fail at once, *why becomes the first of
     * their reasons. [any-thread] May be NULL: core tells the others over TCP. */
    mr_status (*fail)(void *comm, mr_err *why);
} mr_comm_ops;

#ifdef __cplusplus
}
#endif
#endif
