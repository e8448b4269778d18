/* SPDX-License-Identifier: Apache-2.0
 *
 * lt.h - the functions of cuBLASLt that this plugin uses, found when a device opens: neither the
 * build nor the plugin's loading needs the library. Owned by the device.
 *
 * Which of the library's algorithms multiplies is decided once a shape, when a kernel is queried:
 * by timing its proposals, unless a file knows the answer (tuning.h) or the shape is small. One
 * algorithm gives equal bits for equal inputs; two may round differently, so where bits must not
 * depend on what was measured (`deterministic`) the library's first proposal is taken untimed.
 */
#ifndef MRUN_CUDA_LT_H
#define MRUN_CUDA_LT_H
#include "cuda.h"
#include "tuning.h"
#include <cublasLt.h>

struct cuda_lt {
    void *so;
    cublasLtHandle_t handle;
    struct cuda_tuning *tuning; /* NULL: nothing is timed */
#define CUDA_LT_FUNCTIONS(X) \
    X(cublasLtCreate) X(cublasLtDestroy) X(cublasLtMatmul) X(cublasLtMatmulAlgoGetHeuristic) \
    X(cublasLtMatmulDescInit_internal) X(cublasLtMatmulDescSetAttribute) \
    X(cublasLtMatrixLayoutInit_internal) X(cublasLtMatmulPreferenceInit_internal) \
    X(cublasLtMatmulPreferenceSetAttribute) X(cublasLtMatmulAlgoCheck) X(cublasLtGetVersion) \
    X(cublasLtGetStatusString)
#define CUDA_LT_FIELD(name) __typeof__(name) *name##_;
    CUDA_LT_FUNCTIONS(CUDA_LT_FIELD)
#undef CUDA_LT_FIELD
};

/* `path` NULL: the usual names and places, each named in the error if none serves */
mr_status cuda_lt_open(const char *path, struct cuda_lt **out, mr_err *err);
void cuda_lt_close(struct cuda_lt *lt);

/* One product, y [n, m] = a [n or k ..] b, in row-major terms; see cuda_lt_plan(). */
struct cuda_lt_product {
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t a, b, c;
    cublasLtMatmulAlgo_t algo;
    uint64_t workspace;
    double us; /* that a run took when it was chosen, 0: not timed */
    float beta;
    int has_bias;
};

/* C [rows, cols] = beta C + A B (+ bias [cols]), all row-major: A is [rows, inner], or its
 * transpose if ta; B is [inner, cols], or its transpose if tb. `kind`: enum cuda_kind of the
 * operands (equal) and of C. MR_E_UNSUPPORTED if the library knows no way. */
struct cuda_lt_shape {
    int64_t rows, cols, inner;
    int ta, tb, kind, kind_c, bias, tf32;
    float beta;
    int deterministic;
    int kind_b; /* of B where the operands are 8-bit floats: A's and B's may differ */
    int fast;   /* of those: sums may stay in the tensor core's own accumulators    */
};
mr_status cuda_lt_plan(const struct cuda_lt *, const struct cuda_lt_shape *,
                       struct cuda_lt_product *, mr_err *);
/* Has choices timed from here on, and kept as `setting` says: auto, or a path. off, NULL: not. */
void cuda_lt_tune(struct cuda_lt *, const struct cuda_dev *, const char *setting);
mr_status cuda_lt_run(const struct cuda_lt *, const struct cuda_lt_product *, const void *a,
                      const void *b, void *c, const void *bias, void *ws, cudaStream_t, mr_err *);
/* The same with beta C read from `from`, a matrix of C's type that may be C itself. */
mr_status cuda_lt_run_from(const struct cuda_lt *, const struct cuda_lt_product *, const void *a,
                           const void *b, const void *from, void *c, const void *bias, void *ws,
                           cudaStream_t, mr_err *);

/* The same of 8-bit floats, with the operands' scales (on the device). */
mr_status cuda_lt_run_scaled(const struct cuda_lt *, const struct cuda_lt_product *, const void *a,
                             const float *a_scale, const void *b, const float *b_scale, void *c,
                             const void *bias, void *ws, cudaStream_t, mr_err *);

/* for lt_time.c: a product by this algorithm */
void cuda_lt_take(struct cuda_lt_product *, const cublasLtMatmulAlgo_t *, uint64_t workspace,
                  double us);
/* lt_time.c: which of n algorithms is the fastest on the current device, and how fast. -1: there is
 * no memory to try them, or none runs. */
int cuda_lt_fastest(const struct cuda_lt *, const struct cuda_lt_shape *,
                    const struct cuda_lt_product *, const cublasLtMatmulHeuristicResult_t *found,
                    int n, double *us);

#endif
