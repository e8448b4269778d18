/* SPDX-License-Identifier: Apache-2.0
 *
 * nccl_world.h - a world and its groups, as the files of this plugin share them.
 *
 * Invariant: every call of NCCL runs with the CUDA context that was current when the world was
 * opened (nccl_enter), so it may come from another thread than that.
 */
#ifndef NCCL_WORLD_H
#define NCCL_WORLD_H
#include "lib.h"

typedef struct nccl_world {
    nccl_lib lib;
    mr_comm_env env;
    ncclConfig_t config;
    ncclComm_t comm; /* of the world; its own collectives are host_gather()'s */
    void *context, *stream;
    void *mine, *all; /* device memory of host_gather() */
    uint64_t room;    /* bytes that a rank may give to it */
    struct nccl_group *first;
    int aborted;
} nccl_world;

typedef struct nccl_group {
    nccl_world *world;
    ncclComm_t comm;
    uint32_t n;
    struct nccl_group *next;
} nccl_group;

static inline void nccl_enter(const nccl_world *w)
{
    void *now = NULL;
    if (!w->lib.get_context(&now) && now != w->context)
        w->lib.set_context(w->context);
}

#define TRY_NCCL(w, comm, call, what) \
    do { \
        ncclResult_t r_ = (w)->lib.call; \
        if (r_ != ncclSuccess && r_ != ncclInProgress) \
            return nccl_fail(&(w)->lib, comm, r_, what, err); \
    } while (0)

/* collectives.c */
mr_status nccl_all_reduce(void *group, void *stream, const void *in, void *out, uint64_t n,
                          const char *dtype, uint32_t op, mr_err *err);
mr_status nccl_all_gather(void *group, void *stream, const void *in, void *out, uint64_t n,
                          const char *dtype, mr_err *err);
mr_status nccl_reduce_scatter(void *group, void *stream, const void *in, void *out, uint64_t n,
                              const char *dtype, uint32_t op, mr_err *err);
mr_status nccl_broadcast(void *group, void *stream, void *data, uint64_t n, const char *dtype,
                         uint32_t root, mr_err *err);
mr_status nccl_all_to_all(void *group, void *stream, const void *in, const uint64_t *send,
                          const uint64_t *send_at, void *out, const uint64_t *receive,
                          const uint64_t *receive_at, mr_err *err);
mr_status nccl_send(void *group, void *stream, const void *data, uint64_t bytes, uint32_t to,
                    mr_err *err);
mr_status nccl_receive(void *group, void *stream, void *data, uint64_t bytes, uint32_t from,
                       mr_err *err);
mr_status nccl_group_begin(void *comm, mr_err *err);
mr_status nccl_group_end(void *comm, mr_err *err);

#endif
