/* SPDX-License-Identifier: Apache-2.0
 *
 * rank.h - a rank of comm/mpi. Every call that waits for others is a non-blocking one of MPI that
 * is polled, so that it ends: by the work, by abort(), or when the time is over.
 *
 * Invariant: after a call that failed or was given up, requests may be under way for ever; nothing
 * more is sent then, and MPI is not finalised.
 */
#ifndef MPI_RANK_H
#define MPI_RANK_H
#include "mrun/comm.h"
#include <mpi.h>
#include <stdatomic.h>
#include <stdbool.h>

typedef struct mpi_sent { /* a message that MPI has not yet taken */
    struct mpi_sent *next;
    MPI_Request request;
    char data[];
} mpi_sent;

typedef struct mpi_rank {
    MPI_Comm world;
    uint32_t rank, n;
    double timeout_s;
    bool ours;   /* MPI_Init was called here */
    bool broken; /* something was given up */
    atomic_bool aborted;
    mpi_sent *sent;
    MPI_Op bf16[3]; /* by MR_COMM_SUM, MAX, MIN */
    char version[64];
} mpi_rank;

typedef struct mpi_group {
    mpi_rank *self;
    MPI_Comm comm;
    uint32_t n, index;
    char name[32];
} mpi_group;

/* ---- wait.c ---------------------------------------------------------------------------------- */
/* Waits until all requests are done. `what` is for errors: "all_reduce". */
mr_status mpi_wait(mpi_rank *self, MPI_Request *requests, int n, const char *what,
                   const char *group, mr_err *err);
/* the status of an MPI call that starts something */
mr_status mpi_check(mpi_rank *self, int rc, const char *what, const char *group, mr_err *err);
mr_status mpi_usable(const mpi_rank *self, mr_err *err);

/* ---- collectives.c --------------------------------------------------------------------------- */
mr_status mpi_all_reduce(void *group, void *stream, const void *in, void *out, uint64_t n,
                         const char *dtype, uint32_t op, mr_err *err);
mr_status mpi_all_gather(void *group, void *stream, const void *in, void *out, uint64_t n,
                         const char *dtype, mr_err *err);
mr_status mpi_reduce_scatter(void *group, void *stream, const void *in, void *out, uint64_t n,
                             const char *dtype, uint32_t op, mr_err *err);
mr_status mpi_broadcast(void *group, void *stream, void *data, uint64_t n, const char *dtype,
                        uint32_t root, mr_err *err);
mr_status mpi_host_gather(void *comm, const void *mine, uint64_t bytes, void *all, mr_err *err);
bool mpi_make_bf16(mpi_rank *self);
/* A type and a count of it for any number of bytes; *made: to be freed. */
bool mpi_span(uint64_t bytes, MPI_Datatype *type, int *count, bool *made);

/* ---- messages.c ------------------------------------------------------------------------------ */
mr_status mpi_all_to_all(void *group, void *stream, const void *in, const uint64_t *send,
                         const uint64_t *send_at, void *out, const uint64_t *receive,
                         const uint64_t *receive_at, mr_err *err);
mr_status mpi_send(void *group, void *stream, const void *data, uint64_t bytes, uint32_t to,
                   mr_err *err);
mr_status mpi_receive(void *group, void *stream, void *data, uint64_t bytes, uint32_t from,
                      mr_err *err);
mr_status mpi_flush(mpi_rank *self, bool all, mr_err *err); /* lets go of messages that are taken */

#endif
