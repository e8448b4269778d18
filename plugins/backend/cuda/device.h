/* SPDX-License-Identifier: Apache-2.0
 *
 * device.h - between plugin.c (what the profile says), device.c (the machine), query.c (ops),
 * probe.c (its limits) and timer.c (its clock).
 */
#ifndef MRUN_CUDA_DEVICE_H
#define MRUN_CUDA_DEVICE_H
#include "cuda.h"

struct cuda_config { /* section [backend.cuda] */
    int32_t tf32, pad;
    const char *matmul, *cublaslt, *tuning, *attention, *cudnn;
};

extern const mr_backend_ops cuda_backend;
extern const mr_probe cuda_probe;
extern const mr_capture cuda_capture;
extern const mr_timer cuda_timer;

mr_status cuda_query(void *dev, const char *op, const mr_call *, uint32_t flags, void **kernel,
                     mr_kernel_info *, mr_err *);
void cuda_release(void *dev, void *kernel);
mr_status cuda_run(void *dev, void *kernel, void *stream, const mr_buf *in, const mr_buf *out,
                   void *workspace, mr_err *);

/* an empty kernel: cudaSuccess if this build holds code for the current device */
cudaError_t cuda_has_code(void);

#endif
