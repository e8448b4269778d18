/* SPDX-License-Identifier: Apache-2.0
 *
 * cpu.h - what the files of this plugin share: the device, the kernel object that query()
 * makes, and the rows by which an op is found. Kernel files are compiled once for each
 * instruction set (CPU_ISA names it); each exports rows, and isa.c gathers them in one
 * table, of which device.c takes the best that the machine can run.
 *
 * Invariant: work is cut into parts by sizes and the thread count alone, and what parts
 * sum is added in the order of the parts; items that are handed out dynamically share no sum.
 * So equal inputs give equal bits.
 */
#ifndef MRUN_CPU_H
#define MRUN_CPU_H
#include "mrun/backend.h"
#include <omp.h>

enum { CPU_MAX_OPERANDS = 16, CPU_ALIGN = 64 };

struct isa;

struct cpu_dev {
    const mr_host *host;
    const struct isa *isa;
    int threads;
    int matmul; /* enum cpu_matmul_choice */
    int bf16_dot;  /* the machine multiplies bf16 natively (avx512_bf16) */
    void *library; /* see gemm.h; NULL: none */
    uint64_t memory;
    char name[160];
};

enum cpu_matmul_choice { CPU_MATMUL_AUTO = 0, CPU_MATMUL_ONEDNN, CPU_MATMUL_OWN };

struct kernel;
typedef mr_status kernel_run(const struct kernel *, const mr_buf *in, const mr_buf *out, void *ws,
                             mr_err *);

/* One op with its types and attributes, ready to run. Op files extend it: their own struct
 * begins with this one. */
struct kernel {
    kernel_run *run;
    void (*release)(struct kernel *); /* NULL: nothing but the struct itself */
    const struct cpu_dev *dev;
    const char *impl;
    uint64_t workspace;
    uint32_t flags;
    int threads;
    uint8_t in_bf[CPU_MAX_OPERANDS], out_bf[CPU_MAX_OPERANDS]; /* 1: bf16, 0: four bytes wide */
};

/* `sig`: operands as "xxF>xf": x f32 or bf16, f f32, b bf16, i i32, n any of these, m f32 or i16
 * (masters); a capital one may be absent. */
struct op_row {
    const char *id, *sig;
    uint64_t size;
    mr_status (*prepare)(struct kernel *, const mr_call *, mr_err *);
};

enum { ISA_GROUPS = 24 };
struct isa {
    const char *name;
    const struct op_row *rows[ISA_GROUPS]; /* each ends with an id of NULL; NULL ends the list */
};

#define CPU_CAT2(a, b) a##_##b
#define CPU_CAT(a, b) CPU_CAT2(a, b)
#define ISA_NAME(n) CPU_CAT(n, CPU_ISA)
#define ISA_STR(x) MR_STR(x)

/* How many parts `work` is worth, if less than `grain` of it is not worth a thread. */
static inline int cpu_parts(const struct kernel *k, int64_t work, int64_t grain)
{
    int64_t n = grain > 0 ? work / grain : work;
    return n < 1 ? 1 : n < k->threads ? (int)n : k->threads;
}

/* Part p of [0, n), borders at multiples of `align`. */
static inline void cpu_range(int64_t n, int64_t align, int p, int parts, int64_t *lo, int64_t *hi)
{
    int64_t blocks = (n + align - 1) / align;
    *lo = blocks * p / parts * align;
    *hi = blocks * (p + 1) / parts * align;
    if (*lo > n)
        *lo = n;
    if (*hi > n)
        *hi = n;
}

/* the calling thread's own scratch, in a loop whose items are handed out as threads get free */
static inline void *cpu_room(void *rooms, uint64_t stride)
{
    return (char *)rooms + (uint64_t)omp_get_thread_num() * stride;
}

static inline uint64_t cpu_round(uint64_t n)
{
    return (n + CPU_ALIGN - 1) / CPU_ALIGN * CPU_ALIGN;
}

#endif
