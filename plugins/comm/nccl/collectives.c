/* SPDX-License-Identifier: Apache-2.0
 * collectives.c - what a group does; every call only enqueues. See mrun/comm.h. */
#include "nccl_world.h"
#include <string.h>

static const struct {
    const char *name;
    ncclDataType_t type;
} dtypes[] = {
    { "f32", ncclFloat32 }, { "bf16", ncclBfloat16 }, { "f64", ncclFloat64 },
    { "f16", ncclFloat16 }, { "i32", ncclInt32 },     { "i64", ncclInt64 },
    { "u8", ncclUint8 },    { "i8", ncclInt8 },
};
static const ncclRedOp_t reductions[] = { ncclSum, ncclMax, ncclMin }; /* by MR_COMM_SUM ... */

static mr_status dtype_of(const char *name, ncclDataType_t *out, mr_err *err)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (!strcmp(dtypes[i].name, name)) {
            *out = dtypes[i].type;
            return MR_OK;
        }
    return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_HOST, "comm/nccl moves no dtype %s", name);
}

mr_status nccl_all_reduce(void *group, void *stream, const void *in, void *out, uint64_t n,
                          const char *dtype, uint32_t op, mr_err *err)
{
    nccl_group *g = group;
    ncclDataType_t t;
    mr_status st = dtype_of(dtype, &t, err);
    if (st)
        return st;
    nccl_enter(g->world);
    TRY_NCCL(g->world, g->comm, ncclAllReduce(in, out, n, t, reductions[op], g->comm, stream),
             "all_reduce");
    return MR_OK;
}

mr_status nccl_all_gather(void *group, void *stream, const void *in, void *out, uint64_t n,
                          const char *dtype, mr_err *err)
{
    nccl_group *g = group;
    ncclDataType_t t;
    mr_status st = dtype_of(dtype, &t, err);
    if (st)
        return st;
    nccl_enter(g->world);
    TRY_NCCL(g->world, g->comm, ncclAllGather(in, out, n, t, g->comm, stream), "all_gather");
    return MR_OK;
}

mr_status nccl_reduce_scatter(void *group, void *stream, const void *in, void *out, uint64_t n,
                              const char *dtype, uint32_t op, mr_err *err)
{
    nccl_group *g = group;
    ncclDataType_t t;
    mr_status st = dtype_of(dtype, &t, err);
    if (st)
        return st;
    nccl_enter(g->world);
    TRY_NCCL(g->world, g->comm, ncclReduceScatter(in, out, n, t, reductions[op], g->comm, stream),
             "reduce_scatter");
    return MR_OK;
}

mr_status nccl_broadcast(void *group, void *stream, void *data, uint64_t n, const char *dtype,
                         uint32_t root, mr_err *err)
{
    nccl_group *g = group;
    ncclDataType_t t;
    mr_status st = dtype_of(dtype, &t, err);
    if (st)
        return st;
    nccl_enter(g->world);
    TRY_NCCL(g->world, g->comm, ncclBroadcast(data, data, n, t, (int)root, g->comm, stream),
             "broadcast");
    return MR_OK;
}

mr_status nccl_send(void *group, void *stream, const void *data, uint64_t bytes, uint32_t to,
                    mr_err *err)
{
    nccl_group *g = group;
    nccl_enter(g->world);
    TRY_NCCL(g->world, g->comm, ncclSend(data, bytes, ncclUint8, (int)to, g->comm, stream), "send");
    return MR_OK;
}

mr_status nccl_receive(void *group, void *stream, void *data, uint64_t bytes, uint32_t from,
                       mr_err *err)
{
    nccl_group *g = group;
    nccl_enter(g->world);
    TRY_NCCL(g->world, g->comm, ncclRecv(data, bytes, ncclUint8, (int)from, g->comm, stream),
             "receive");
    return MR_OK;
}

mr_status nccl_group_begin(void *comm, mr_err *err)
{
    nccl_world *w = comm;
    nccl_enter(w);
    TRY_NCCL(w, w->comm, ncclGroupStart(), "ncclGroupStart");
    return MR_OK;
}

mr_status nccl_group_end(void *comm, mr_err *err)
{
    nccl_world *w = comm;
    nccl_enter(w);
    TRY_NCCL(w, w->comm, ncclGroupEnd(), "ncclGroupEnd");
    return MR_OK;
}

/* One operation of sends and receives; the first error is kept, and the bracket closed anyway. */
mr_status nccl_all_to_all(void *group, void *stream, const void *in, const uint64_t *send_bytes,
                          const uint64_t *send_at, void *out, const uint64_t *receive_bytes,
                          const uint64_t *receive_at, mr_err *err)
{
    nccl_group *g = group;
    uint64_t from = 0, to = 0;
    mr_status st = nccl_group_begin(g->world, err);
    if (st)
        return st;
    for (uint32_t p = 0; p < g->n && !st; p++) {
        from = send_at ? send_at[p] : from;
        to = receive_at ? receive_at[p] : to;
        if (send_bytes[p])
            st = nccl_send(g, stream, (const char *)in + from, send_bytes[p], p, err);
        if (!st && receive_bytes[p])
            st = nccl_receive(g, stream, (char *)out + to, receive_bytes[p], p, err);
        from += send_bytes[p];
        to += receive_bytes[p];
    }
    mr_err second = MR_ERR_INIT;
    mr_status end = nccl_group_end(g->world, st ? &second : err);
    return st ? st : end;
}

