/* SPDX-License-Identifier: Apache-2.0
 *
 * device.h - between plugin.c (what the profile says), device.c (the machine), query.c (ops).
 */
#ifndef MRUN_CPU_DEVICE_H
#define MRUN_CPU_DEVICE_H
#include "cpu.h"

struct cpu_config { /* section [backend.cpu] */
    int64_t threads; /* 0: auto */
    const char *affinity, *isa, *matmul;
};

extern const mr_backend_ops cpu_backend;

/* the kernels to use, by name or "auto"; NULL with an error if this CPU cannot run them */
const struct isa *cpu_isa_find(const char *name, mr_err *err);

mr_status cpu_query(void *dev, const char *op, const mr_call *, uint32_t flags, void **kernel,
                    mr_kernel_info *, mr_err *);
void cpu_release(void *dev, void *kernel);
mr_status cpu_run(void *dev, void *kernel, void *stream, const mr_buf *in, const mr_buf *out,
                  void *workspace, mr_err *);

extern const mr_probe cpu_probe;

#endif
