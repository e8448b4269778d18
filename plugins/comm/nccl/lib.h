/* SPDX-License-Identifier: Apache-2.0
 *
 * lib.h - NCCL as this plugin calls it: the library is opened when a world is, never linked, so
 * that the plugin loads (and `mrun plugins` lists it) where there is no NCCL and no driver.
 *
 * Invariant: a table that nccl_lib_open() gave has every function; its error texts name the call.
 */
#ifndef NCCL_LIB_H
#define NCCL_LIB_H
#include "mrun/comm.h"
#include <nccl.h>

#define NCCL_FUNCTIONS(X) \
    X(ncclGetVersion) X(ncclGetUniqueId) X(ncclCommInitRankConfig) X(ncclCommSplit) \
    X(ncclCommDestroy) X(ncclCommCount) X(ncclCommAbort) X(ncclCommGetAsyncError) \
    X(ncclGetErrorString) X(ncclGetLastError) X(ncclAllReduce) X(ncclAllGather) \
    X(ncclReduceScatter) X(ncclBroadcast) X(ncclSend) X(ncclRecv) X(ncclGroupStart) \
    X(ncclGroupEnd) X(ncclMemAlloc) X(ncclMemFree)

typedef struct nccl_lib {
    void *so, *driver;
#define NCCL_FIELD(name) __typeof__(name) *name;
    NCCL_FUNCTIONS(NCCL_FIELD)
#undef NCCL_FIELD
    int (*get_context)(void **context); /* the driver's: NCCL works on the thread's current one */
    int (*set_context)(void *context);
    char version[32]; /* "NCCL 2.28.9" */
} nccl_lib;

/* `path`: the library's file, or NULL or empty for the usual places. */
mr_status nccl_lib_open(const char *path, nccl_lib *out, mr_err *err);
void nccl_lib_close(nccl_lib *l);
/* MR_E_COMM with NCCL's own last words; `comm` may be NULL */
mr_status nccl_fail(const nccl_lib *l, ncclComm_t comm, ncclResult_t r, const char *what,
                    mr_err *err);

#endif
