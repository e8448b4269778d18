/* SPDX-License-Identifier: Apache-2.0
 *
 * linear_gelu.c - GELU in the epilogue of cuBLASLt's bf16 products, forward (with what went into
 * it kept) and backward. It has the tanh form only. What it cannot do is refused, and the planner
 * leaves product and GELU apart. Saved at [T,F]: forward one reading, backward a writing and two
 * readings of it.
 */
#include "lt.h"

struct linear_gelu {
    struct kernel base;
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t a, b, c; /* theirs: c' [cols, rows] = a' b' */
    cublasLtMatmulAlgo_t algo;
    uint64_t room;
    int backward;
};

enum { ROOM = 32 << 20, ROOM_ALIGN = 256 };

#define LAYOUT(m) ((cublasLtMatrixLayout_t)(uintptr_t)&k->m) /* it reads them only */

static mr_status run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                     cudaStream_t stream, mr_err *err)
{
    const struct linear_gelu *k = (const struct linear_gelu *)base;
    const struct cuda_lt *lt = base->dev->lt;
    cublasLtMatmulDescOpaque_t desc = k->desc; /* two streams may run one kernel */
    const float one = 1, zero = 0;
    void *bias = k->backward ? NULL : in[2].data;
    void *pre = k->backward ? in[2].data : base->n_out > 1 ? out[1].data : NULL;
    uintptr_t room = ((uintptr_t)ws + ROOM_ALIGN - 1) / ROOM_ALIGN * ROOM_ALIGN;
    int bad = 0;
    if (bias)
        bad |= lt->cublasLtMatmulDescSetAttribute_(&desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                                   sizeof bias);
    if (pre)
        bad |= lt->cublasLtMatmulDescSetAttribute_(&desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER,
                                                   &pre, sizeof pre);
    cublasStatus_t st = bad ? CUBLAS_STATUS_INVALID_VALUE
                            : lt->cublasLtMatmul_(lt->handle, &desc, &one, in[1].data, LAYOUT(a),
                                                  in[0].data, LAYOUT(b), &zero, out[0].data,
                                                  LAYOUT(c), out[0].data, LAYOUT(c), &k->algo,
                                                  (void *)room, k->room, stream);
    return !st ? MR_OK
               : mr_fail(err, MR_E_DEVICE, MR_BLAME_ENV, "cublasLtMatmul: %s",
                         lt->cublasLtGetStatusString_(st));
}

/* c [rows, cols] = epilogue(a [rows, inner] b), b [inner, cols] or (turned) its transpose */
static mr_status plan(struct kernel *base, const mr_call *c, int64_t rows, int64_t cols,
                      int64_t inner, cublasOperation_t turned, uint32_t epilogue, int aux,
                      mr_err *err)
{
    struct linear_gelu *k = (struct linear_gelu *)base;
    const struct cuda_lt *lt = base->dev->lt;
    cublasLtMatmulPreferenceOpaque_t pref;
    cublasLtMatmulHeuristicResult_t found;
    const cublasOperation_t plain = CUBLAS_OP_N;
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint64_t room = ROOM;
    void *somewhere = (void *)(uintptr_t)ROOM_ALIGN; /* where it will be is not asked yet */
    const uint64_t first = (uint64_t)(turned == CUBLAS_OP_T ? inner : cols);
    const uint64_t second = (uint64_t)(turned == CUBLAS_OP_T ? cols : inner);
    int n = 0, bad = 0;
    for (uint32_t i = 0; i < c->n_in; i++)
        if (c->in[i] && base->in_kind[i] != CUDA_BF16)
            return cuda_refuse(base, err, "GELU within a product is for bf16");
    if (strcmp(mr_attr_s(c, "approx", "none"), "tanh"))
        return cuda_refuse(base, err, "GELU within a product is the tanh form");
    if (!lt || rows < 1 || cols % 8 || inner % 8)
        return cuda_refuse(base, err, "without cuBLASLt, or rows that are no multiple of 8 wide");
    bad |= lt->cublasLtMatmulDescInit_internal_(&k->desc, sizeof k->desc, CUBLAS_COMPUTE_32F,
                                                CUDA_R_32F);
#define SET(key, value) \
    bad |= lt->cublasLtMatmulDescSetAttribute_(&k->desc, CUBLASLT_MATMUL_DESC_##key, &value, \
                                               sizeof value)
    SET(TRANSA, turned);
    SET(TRANSB, plain);
    SET(EPILOGUE, epilogue);
    if (aux) {
        SET(EPILOGUE_AUX_LD, cols);
        SET(EPILOGUE_AUX_POINTER, somewhere);
    }
#undef SET
    bad |= lt->cublasLtMatrixLayoutInit_internal_(&k->a, sizeof k->a, CUDA_R_16BF, first, second,
                                                  (int64_t)first);
    bad |= lt->cublasLtMatrixLayoutInit_internal_(&k->b, sizeof k->b, CUDA_R_16BF, (uint64_t)inner,
                                                  (uint64_t)rows, inner);
    bad |= lt->cublasLtMatrixLayoutInit_internal_(&k->c, sizeof k->c, CUDA_R_16BF, (uint64_t)cols,
                                                  (uint64_t)rows, cols);
    bad |= lt->cublasLtMatmulPreferenceInit_internal_(&pref, sizeof pref);
    bad |= lt->cublasLtMatmulPreferenceSetAttribute_(
        &pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof room);
    bad |= lt->cublasLtMatmulPreferenceSetAttribute_(
        &pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions);
    if (!bad)
        bad = lt->cublasLtMatmulAlgoGetHeuristic_(lt->handle, &k->desc, &k->a, &k->b, &k->c, &k->c,
                                                  &pref, 1, &found, &n);
    if (bad || n < 1 || found.state)
        return cuda_refuse(base, err, "cuBLASLt knows no way with GELU");
    k->algo = found.algo;
    k->room = found.workspaceSize;
    base->workspace = k->room ? k->room + ROOM_ALIGN : 0;
    base->run = run;
    base->impl = "cublaslt bf16, gelu";
    base->est_us = 2e6 * (double)rows * (double)cols * (double)inner / 990e12;
    return MR_OK;
}

static mr_status forward_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    const int pre = c->n_out > 1 && c->out[1], bias = c->n_in > 2 && c->in[2];
    const uint32_t epilogue = pre ? bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS
                                         : CUBLASLT_EPILOGUE_GELU_AUX
                                  : bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    return plan(base, c, mr_rows(c->in[0]), c->in[1]->dim[0], mr_last(c->in[0]), CUBLAS_OP_T,
                epilogue, pre, err);
}

static mr_status dgrad_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    ((struct linear_gelu *)base)->backward = 1;
    return plan(base, c, mr_rows(c->in[0]), c->in[1]->dim[1], c->in[1]->dim[0], CUBLAS_OP_N,
                CUBLASLT_EPILOGUE_DGELU, 1, err);
}

const struct op_row cuda_linear_gelu_rows[] = {
    { "linear_gelu", "xxX>xX", sizeof(struct linear_gelu), forward_prepare, 0, 0 },
    { "linear_gelu.dgrad", "xxx>x", sizeof(struct linear_gelu), dgrad_prepare, 0, 0 },
    { 0 },
};
