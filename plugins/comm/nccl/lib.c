/* SPDX-License-Identifier: Apache-2.0
 * lib.c - see lib.h. */
#include "lib.h"
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static const char *const places[] = {
    "libnccl.so.2",
    "/usr/local/cuda/lib64/libnccl.so.2",
    "/usr/lib/x86_64-linux-gnu/libnccl.so.2",
    "/opt/cuda/lib64/libnccl.so.2",
};

static mr_status not_found(mr_err *err, const char *path, const char *why)
{
    mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "comm/nccl needs libnccl.so.2, which cannot be used");
    mr_detail(err, "%s: %s", path && *path ? path
              : "tried libnccl.so.2 on the library path and in /usr/local/cuda and /opt/cuda",
              why ? why : "not found");
    mr_hint(err, "install NCCL, or set [comm.nccl] library = its path");
    return MR_E_COMM;
}

static mr_status find_driver(nccl_lib *l, mr_err *err)
{
    l->driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (l->driver) {
        l->get_context = (int (*)(void **))dlsym(l->driver, "cuCtxGetCurrent");
        l->set_context = (int (*)(void *))dlsym(l->driver, "cuCtxSetCurrent");
    }
    if (l->get_context && l->set_context)
        return MR_OK;
    mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "comm/nccl needs NVIDIA's driver (libcuda.so.1)");
    mr_hint(err, "on a machine without a GPU: [comm] plugin = mpi");
    return MR_E_COMM;
}

mr_status nccl_lib_open(const char *path, nccl_lib *l, mr_err *err)
{
    const char *missing = NULL;
    mr_status st = MR_OK;
    int version = 0;
    memset(l, 0, sizeof *l);
    if (path && *path)
        l->so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; !(path && *path) && !l->so && i < sizeof places / sizeof *places; i++)
        l->so = dlopen(places[i], RTLD_NOW | RTLD_LOCAL);
    if (!l->so)
        return not_found(err, path, dlerror());
#define FIND(name) \
    if (!(l->name = (__typeof__(name) *)dlsym(l->so, #name))) \
        missing = #name;
    NCCL_FUNCTIONS(FIND)
#undef FIND
    if (missing) {
        char why[120];
        snprintf(why, sizeof why, "it has no %s (2.18 or later is needed)", missing);
        st = not_found(err, path, why);
    }
    if (!st && (l->ncclGetVersion(&version) || version / 10000 != NCCL_MAJOR)) {
        char why[120];
        snprintf(why, sizeof why, "it says version code %d, this plugin was built for %d.%d",
                 version, NCCL_MAJOR, NCCL_MINOR);
        st = not_found(err, path, why);
    }
    if (!st)
        st = find_driver(l, err);
    if (st)
        nccl_lib_close(l);
    else
        snprintf(l->version, sizeof l->version, "NCCL %d.%d.%d", version / 10000,
                 version / 100 % 100, version % 100);
    return st;
}

void nccl_lib_close(nccl_lib *l)
{
    if (l->driver)
        dlclose(l->driver);
    l->driver = NULL;
    l->so = NULL; /* stays loaded: its threads may outlive us */
}

mr_status nccl_fail(const nccl_lib *l, ncclComm_t comm, ncclResult_t r, const char *what,
                    mr_err *err)
{
    const char *last = l->ncclGetLastError(comm);
    mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "%s: %s", what, l->ncclGetErrorString(r));
    if (err)
        err->native = (int32_t)r;
    if (last && *last)
        mr_detail(err, "NCCL: %s", last);
    mr_hint(err, r == ncclRemoteError || r == ncclSystemError
                     ? "a peer has gone, or cannot be reached; its own output says why"
                     : "NCCL_DEBUG=WARN in the environment prints more");
    return MR_E_COMM;
}
