/* SPDX-License-Identifier: Apache-2.0
 *
 * cuda.h - what the files of this plugin share: the device, the kernel object that query()
 * makes, and the rows by which an op is found. Each kernel file ends with its rows; query.c
 * lists the tables. A faster kernel for an op is another file with a row of the same id, put
 * before the plain one: a row whose prepare() answers MR_E_UNSUPPORTED passes the call on.
 *
 * Invariants: run() only enqueues on its stream, takes no memory and never waits; what is
 * summed is cut by sizes alone and added in one order, so equal inputs give equal bits.
 */
#ifndef MRUN_CUDA_H
#define MRUN_CUDA_H
#include "mrun/backend.h"
#include <cuda_runtime_api.h>
#ifdef __cplusplus
extern "C" {
#endif

enum { CUDA_MAX_OPERANDS = 16, CUDA_ALIGN = 64 };

/* what every kernel of this plugin is, unless its row says more */
enum { CUDA_PLAIN = MR_K_CAPTURABLE | MR_K_DETERMINISTIC };

struct cuda_lt;  /* cuBLASLt, see lt.h */
struct cuda_dnn; /* cuDNN, see cudnn.h  */

struct cuda_dev {
    const mr_host *host;
    int index, sms, cc; /* cc: 90 for compute capability 9.0 */
    int tf32;           /* f32 products may use it           */
    struct cuda_lt *lt; /* NULL: products by our own kernels */
    const char *lt_why; /* then why, to be told              */
    struct cuda_dnn *dnn; /* NULL: attention by our own kernels */
    uint64_t memory, total; /* bytes: free at opening, in all */
    char name[400];
};

/* The bits of an operand's elements. */
enum cuda_kind {
    CUDA_F32 = 0, CUDA_BF16 = 1, CUDA_I32 = 2, CUDA_I16 = 3, CUDA_E4M3 = 4, CUDA_E5M2 = 5
};

/* One op with its types and attributes, ready to run. Op files extend it: their own struct
 * begins with this one. */
struct kernel {
    mr_status (*run)(const struct kernel *, const mr_buf *in, const mr_buf *out, void *ws,
                     cudaStream_t stream, mr_err *);
    void (*release)(struct kernel *); /* NULL: nothing but the struct itself */
    const struct cuda_dev *dev;
    const char *op, *impl;
    uint64_t workspace;
    uint32_t flags, asked; /* asked: query()'s flags */
    uint32_t n_in, n_out;
    uint32_t present; /* bit i: input i is there; run() sees NULL for the others */
    double est_us;
    uint8_t in_kind[CUDA_MAX_OPERANDS], out_kind[CUDA_MAX_OPERANDS];
};

/* `sig`: operands as "xxF>xf": x f32 or bf16, f f32, b bf16, i i32, n any of these, m f32 or i16
 * (masters), q f8e4m3 or f8e5m2; a capital one may be absent. */
struct op_row {
    const char *id, *sig;
    uint64_t size;
    mr_status (*prepare)(struct kernel *, const mr_call *, mr_err *);
    uint32_t flags; /* beside CUDA_PLAIN */
    uint32_t pad;
};

/* ---- tables of rows, each ended by an id of NULL --------------------------------------- */
/* in the order in which they are asked: a faster table stands before a plainer one */
#define CUDA_TABLES(X) \
    X(thin) X(thin_linear) X(thin_experts) X(linear) X(linear_add) X(grouped_wgmma) \
    X(linear_gelu) X(grouped) X(cudnn) X(flash) X(flash_bwd) X(attention) X(attention_bwd) \
    X(attention_ring) X(decode_mma) X(decode) X(cached) X(norm_held) X(sum_rows) X(norm) \
    X(rope_heads) X(rope) X(pointwise) X(gelu) X(weighted) X(embedding) X(loss) X(route) \
    X(router) X(plan) X(permute) X(permute_add) X(router_loss) X(z_loss) X(update) X(draw) \
    X(argmax) X(mla) X(mla_cached) X(patches) X(merge) X(comm) X(fp8) X(linear_fp8) X(exchange) \
    X(blocks) X(drop) X(balance) X(ahead)
#define CUDA_DECLARE(name) extern const struct op_row cuda_##name##_rows[];
CUDA_TABLES(CUDA_DECLARE)
#undef CUDA_DECLARE

/* A CUDA call's answer as ours: names the call and what CUDA said. */
mr_status cuda_fail(mr_err *err, cudaError_t e, const char *what);
/* After a launch: did it start? A kernel's own fault shows at the next sync. */
mr_status cuda_launched(const struct kernel *, mr_err *err);
/* for prepare(): this row does not do that; `why` completes "backend/cuda: OP: " */
mr_status cuda_refuse(const struct kernel *, mr_err *err, const char *why);

static inline uint64_t cuda_round(uint64_t n)
{
    return (n + CUDA_ALIGN - 1) / CUDA_ALIGN * CUDA_ALIGN;
}

static inline int64_t cuda_ceil(int64_t n, int64_t d)
{
    return (n + d - 1) / d;
}

#ifdef __cplusplus
}
#endif
#endif
