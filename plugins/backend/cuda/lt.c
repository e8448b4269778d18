/* SPDX-License-Identifier: Apache-2.0
 *
 * lt.c - see lt.h. cuBLASLt is column-major: a row-major C = A B is its C' = B' A', so operands
 * change places and each layout's leading dimension is the row-major row length. Algorithms
 * are the library's first proposal within a fixed workspace, and without reductions in place,
 * whose order is not ours to know.
 */
#include "lt.h"
#include <dlfcn.h>
#include <stdlib.h>

enum { WORKSPACE = 32 << 20, WORKSPACE_ALIGN = 256 }; /* what NVIDIA advises for Hopper */

static const char *const places[] = {
    "libcublasLt.so." MR_STR(CUBLAS_VER_MAJOR),
    "/usr/local/cuda/lib64/libcublasLt.so." MR_STR(CUBLAS_VER_MAJOR),
    "/opt/cuda/lib64/libcublasLt.so." MR_STR(CUBLAS_VER_MAJOR),
};

static mr_status not_found(mr_err *err, const char *path, const char *why)
{
    mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_ENV, "backend/cuda: cuBLASLt %d could not be loaded",
            CUBLAS_VER_MAJOR);
    mr_detail(err, "%s: %s", path ? path : "tried libcublasLt.so." MR_STR(CUBLAS_VER_MAJOR)
              " on the library path and in /usr/local/cuda and /opt/cuda", why ? why : "");
    mr_hint(err, "install it, or set [backend.cuda] cublaslt = its path");
    return MR_E_UNSUPPORTED;
}

mr_status cuda_lt_open(const char *path, struct cuda_lt **out, mr_err *err)
{
    struct cuda_lt *lt = calloc(1, sizeof *lt);
    const char *missing = NULL;
    mr_status st = MR_OK;
    if (!lt)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for cuBLASLt's functions");
    if (path && *path)
        lt->so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; !(path && *path) && !lt->so && i < sizeof places / sizeof places[0]; i++)
        lt->so = dlopen(places[i], RTLD_NOW | RTLD_LOCAL);
    if (!lt->so) {
        st = not_found(err, path, dlerror());
        goto out;
    }
#define FIND(name) \
    if (!(lt->name##_ = (__typeof__(name) *)dlsym(lt->so, #name))) \
        missing = #name;
    CUDA_LT_FUNCTIONS(FIND)
#undef FIND
    if (missing) {
        st = not_found(err, path, missing);
        goto out;
    }
    if (lt->cublasLtCreate_(&lt->handle)) {
        lt->handle = NULL;
        st = not_found(err, path, "cublasLtCreate failed");
    }
out:
    if (st) {
        cuda_lt_close(lt);
        lt = NULL;
    }
    *out = lt;
    return st;
}

void cuda_lt_close(struct cuda_lt *lt)
{
    if (!lt)
        return;
    if (lt->handle)
        lt->cublasLtDestroy_(lt->handle);
    if (lt->so)
        dlclose(lt->so);
    free(lt);
}

static cudaDataType_t type_of(int kind)
{
    return kind == CUDA_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

mr_status cuda_lt_plan(const struct cuda_lt *lt, const struct cuda_lt_shape *s,
                       struct cuda_lt_product *p, mr_err *err)
{
    cublasOperation_t first = s->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t second = s->ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasComputeType_t compute = s->tf32 && s->kind == CUDA_F32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                                 : CUBLAS_COMPUTE_32F;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    uint32_t align = CUDA_ALIGN / 4;
    uint64_t room = WORKSPACE;
    cublasLtMatmulPreferenceOpaque_t pref;
    cublasLtMatmulHeuristicResult_t found;
    int n = 0, bad = 0;
    memset(p, 0, sizeof *p);
    if (s->rows < 1 || s->cols < 1 || s->inner < 1)
        return MR_E_UNSUPPORTED; /* nothing to multiply: an own kernel knows what to do */
    /* theirs: [cols, rows] = op(B') [cols, inner] op(A') [inner, rows] */
    bad |= lt->cublasLtMatmulDescInit_internal_(&p->desc, sizeof p->desc, compute, CUDA_R_32F);
#define SET(key, value) \
    bad |= lt->cublasLtMatmulDescSetAttribute_(&p->desc, CUBLASLT_MATMUL_DESC_##key, &value, \
                                               sizeof value)
    SET(TRANSA, first);
    SET(TRANSB, second);
    if (s->bias)
        SET(EPILOGUE, epilogue);
#undef SET
    bad |= lt->cublasLtMatrixLayoutInit_internal_(
        &p->a, sizeof p->a, type_of(s->kind), (uint64_t)(s->tb ? s->inner : s->cols),
        (uint64_t)(s->tb ? s->cols : s->inner), s->tb ? s->inner : s->cols);
    bad |= lt->cublasLtMatrixLayoutInit_internal_(
        &p->b, sizeof p->b, type_of(s->kind), (uint64_t)(s->ta ? s->rows : s->inner),
        (uint64_t)(s->ta ? s->inner : s->rows), s->ta ? s->rows : s->inner);
    bad |= lt->cublasLtMatrixLayoutInit_internal_(&p->c, sizeof p->c, type_of(s->kind_c),
                                                  (uint64_t)s->cols, (uint64_t)s->rows, s->cols);
    bad |= lt->cublasLtMatmulPreferenceInit_internal_(&pref, sizeof pref);
#define PREF(key, value) \
    bad |= lt->cublasLtMatmulPreferenceSetAttribute_(&pref, CUBLASLT_MATMUL_PREF_##key, &value, \
                                                     sizeof value)
    PREF(MAX_WORKSPACE_BYTES, room);
    PREF(REDUCTION_SCHEME_MASK, reductions);
    PREF(MIN_ALIGNMENT_A_BYTES, align);
    PREF(MIN_ALIGNMENT_B_BYTES, align);
    PREF(MIN_ALIGNMENT_C_BYTES, align);
    PREF(MIN_ALIGNMENT_D_BYTES, align);
#undef PREF
    if (!bad)
        bad = lt->cublasLtMatmulAlgoGetHeuristic_(lt->handle, &p->desc, &p->a, &p->b, &p->c, &p->c,
                                                  &pref, 1, &found, &n);
    if (bad || n < 1 || found.state)
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_ENV, "backend/cuda: cuBLASLt knows no way "
                       "for [%lld,%lld] = [.,%lld]", (long long)s->rows, (long long)s->cols,
                       (long long)s->inner);
    p->algo = found.algo;
    p->workspace = found.workspaceSize ? found.workspaceSize + WORKSPACE_ALIGN : 0;
    p->beta = s->beta;
    p->has_bias = s->bias;
    return MR_OK;
}

#define LAYOUT(m) ((cublasLtMatrixLayout_t)(uintptr_t)&p->m) /* it reads them only */

mr_status cuda_lt_run(const struct cuda_lt *lt, const struct cuda_lt_product *p, const void *a,
                      const void *b, void *c, const void *bias, void *ws, cudaStream_t stream,
                      mr_err *err)
{
    cublasLtMatmulDescOpaque_t desc = p->desc; /* two streams may run one kernel: each its bias */
    const float one = 1;
    uintptr_t room = ((uintptr_t)ws + WORKSPACE_ALIGN - 1) / WORKSPACE_ALIGN * WORKSPACE_ALIGN;
    uint64_t bytes = p->workspace ? p->workspace - WORKSPACE_ALIGN : 0;
    cublasStatus_t st = CUBLAS_STATUS_SUCCESS;
    if (p->has_bias)
        st = lt->cublasLtMatmulDescSetAttribute_(&desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                                 sizeof bias);
    if (!st)
        st = lt->cublasLtMatmul_(lt->handle, &desc, &one, b, LAYOUT(a), a, LAYOUT(b), &p->beta, c,
                                 LAYOUT(c), c, LAYOUT(c), &p->algo, (void *)room, bytes, stream);
    if (!st)
        return MR_OK;
    return mr_fail(err, MR_E_DEVICE, MR_BLAME_ENV, "cublasLtMatmul: %s",
                   lt->cublasLtGetStatusString_(st));
}
