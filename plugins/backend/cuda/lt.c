/* SPDX-License-Identifier: Apache-2.0
 *
 * lt.c - see lt.h. cuBLASLt is column-major: a row-major C = A B is its C' = B' A', so operands
 * change places and each layout's leading dimension is the row-major row length. Algorithms
 * are proposals of the library within a fixed workspace, and without reductions in place, whose
 * order is not ours to know.
 */
#include "lt.h"
#include <dlfcn.h>
#include <stdlib.h>

enum { WORKSPACE = 32 << 20, WORKSPACE_ALIGN = 256 }; /* what NVIDIA advises for Hopper */
enum { PROPOSALS = 16 };
#define WORTH_TIMING 1e9 /* flops: below, a launch takes as long as the product */

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
    cuda_tuning_close(lt->tuning);
    if (lt->handle)
        lt->cublasLtDestroy_(lt->handle);
    if (lt->so)
        dlclose(lt->so);
    free(lt);
}

static cudaDataType_t type_of(int kind)
{
    return kind == CUDA_BF16 ? CUDA_R_16BF : kind == CUDA_E4M3 ? CUDA_R_8F_E4M3
         : kind == CUDA_E5M2 ? CUDA_R_8F_E5M2 : CUDA_R_32F;
}

/* ---- a product in the library's terms ------------------------------------------------------ */

/* 0: described */
static int describe(const struct cuda_lt *lt, const struct cuda_lt_shape *s,
                    struct cuda_lt_product *p)
{
    cublasOperation_t first = s->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t second = s->ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasComputeType_t compute = s->tf32 && s->kind == CUDA_F32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                                 : CUBLAS_COMPUTE_32F;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    int bad = 0, eight = s->kind >= CUDA_E4M3, kind_b = eight ? s->kind_b : s->kind;
    int8_t fast = (int8_t)s->fast;
    /* theirs: [cols, rows] = op(B') [cols, inner] op(A') [inner, rows] */
    bad |= lt->cublasLtMatmulDescInit_internal_(&p->desc, sizeof p->desc, compute, CUDA_R_32F);
#define SET(key, value) \
    bad |= lt->cublasLtMatmulDescSetAttribute_(&p->desc, CUBLASLT_MATMUL_DESC_##key, &value, \
                                               sizeof value)
    SET(TRANSA, first);
    SET(TRANSB, second);
    if (s->bias)
        SET(EPILOGUE, epilogue);
    if (eight)
        SET(FAST_ACCUM, fast);
#undef SET
    bad |= lt->cublasLtMatrixLayoutInit_internal_(
        &p->a, sizeof p->a, type_of(kind_b), (uint64_t)(s->tb ? s->inner : s->cols),
        (uint64_t)(s->tb ? s->cols : s->inner), s->tb ? s->inner : s->cols);
    bad |= lt->cublasLtMatrixLayoutInit_internal_(
        &p->b, sizeof p->b, type_of(s->kind), (uint64_t)(s->ta ? s->rows : s->inner),
        (uint64_t)(s->ta ? s->inner : s->rows), s->ta ? s->rows : s->inner);
    bad |= lt->cublasLtMatrixLayoutInit_internal_(&p->c, sizeof p->c, type_of(s->kind_c),
                                                  (uint64_t)s->cols, (uint64_t)s->rows, s->cols);
    p->beta = s->beta;
    p->has_bias = s->bias;
    return bad;
}

/* the best first, as the library thinks; their number */
static int propose(const struct cuda_lt *lt, struct cuda_lt_product *p,
                   cublasLtMatmulHeuristicResult_t *found, int most)
{
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    uint32_t align = CUDA_ALIGN / 4;
    uint64_t room = WORKSPACE;
    cublasLtMatmulPreferenceOpaque_t pref;
    int n = 0, good = 0;
    int bad = lt->cublasLtMatmulPreferenceInit_internal_(&pref, sizeof pref);
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
    if (bad || lt->cublasLtMatmulAlgoGetHeuristic_(lt->handle, &p->desc, &p->a, &p->b, &p->c, &p->c,
                                                   &pref, most, found, &n))
        return 0;
    for (int i = 0; i < n; i++)
        if (!found[i].state)
            found[good++] = found[i];
    return good;
}

/* ---- choosing ------------------------------------------------------------------------------ */

static void key_of(const struct cuda_lt_shape *s, char *key)
{
    static const char *const kinds[] = { "f32", "bf16", "", "", "e4m3", "e5m2" };
    snprintf(key, CUDA_CHOICE_KEY, "%lldx%lldx%lld %c%c %s%s>%s%s%s%s beta %g", (long long)s->rows,
             (long long)s->cols, (long long)s->inner, s->ta ? 't' : 'n', s->tb ? 't' : 'n',
             kinds[s->kind], s->kind < CUDA_E4M3 ? "" : kinds[s->kind_b], kinds[s->kind_c],
             s->fast ? " fast" : "", s->tf32 && s->kind == CUDA_F32 ? " tf32" : "",
             s->bias ? " bias" : "",
             (double)s->beta);
}

void cuda_lt_take(struct cuda_lt_product *p, const cublasLtMatmulAlgo_t *algo, uint64_t workspace,
                  double us)
{
    p->algo = *algo;
    p->workspace = workspace ? workspace + WORKSPACE_ALIGN : 0;
    p->us = us;
}

/* What the file says, if the library still knows what it means. 1: taken */
static int remembered(const struct cuda_lt *lt, struct cuda_lt_product *p, const char *key)
{
    _Static_assert(sizeof(cublasLtMatmulAlgo_t) == CUDA_CHOICE_BYTES, "the file keeps all of it");
    struct cuda_choice c;
    cublasLtMatmulAlgo_t algo;
    cublasLtMatmulHeuristicResult_t r;
    memset(&r, 0, sizeof r);
    if (!cuda_tuning_find(lt->tuning, key, &c))
        return 0;
    memcpy(&algo, c.algo, sizeof algo);
    if (lt->cublasLtMatmulAlgoCheck_(lt->handle, &p->desc, &p->a, &p->b, &p->c, &p->c, &algo, &r) ||
        r.state || r.workspaceSize > WORKSPACE)
        return 0;
    cuda_lt_take(p, &algo, r.workspaceSize, c.us);
    return 1;
}

static void choose(const struct cuda_lt *lt, const struct cuda_lt_shape *s,
                   struct cuda_lt_product *p, const cublasLtMatmulHeuristicResult_t *found, int n,
                   const char *key)
{
    double us = 0;
    int best = n > 1 ? cuda_lt_fastest(lt, s, p, found, n, &us) : -1;
    const cublasLtMatmulHeuristicResult_t *f = &found[best < 0 ? 0 : best];
    struct cuda_choice c = { .us = us };
    cuda_lt_take(p, &f->algo, f->workspaceSize, us);
    memcpy(c.algo, &f->algo, sizeof f->algo);
    if (best >= 0)
        cuda_tuning_keep(lt->tuning, key, &c);
}

mr_status cuda_lt_plan(const struct cuda_lt *lt, const struct cuda_lt_shape *s,
                       struct cuda_lt_product *p, mr_err *err)
{
    cublasLtMatmulHeuristicResult_t found[PROPOSALS];
    char key[CUDA_CHOICE_KEY];
    memset(p, 0, sizeof *p);
    if (s->rows < 1 || s->cols < 1 || s->inner < 1)
        return MR_E_UNSUPPORTED; /* nothing to multiply: an own kernel knows what to do */
    int timed = lt->tuning && !s->deterministic &&
                2.0 * (double)s->rows * (double)s->cols * (double)s->inner >= WORTH_TIMING;
    int described = describe(lt, s, p) == 0;
    key_of(s, key);
    if (described && timed && remembered(lt, p, key))
        return MR_OK;
    int n = described ? propose(lt, p, found, timed ? PROPOSALS : 1) : 0;
    if (n < 1)
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_ENV, "backend/cuda: cuBLASLt knows no way "
                       "for [%lld,%lld] = [.,%lld]", (long long)s->rows, (long long)s->cols,
                       (long long)s->inner);
    if (timed)
        choose(lt, s, p, found, n, key);
    else
        cuda_lt_take(p, &found[0].algo, found[0].workspaceSize, 0);
    return MR_OK;
}

static void warn(void *self, const char *line)
{
    const mr_host *host = self;
    if (host && MR_CAN(host, log))
        host->log(host->self, MR_LOG_WARN, "backend/cuda", line);
}

void cuda_lt_tune(struct cuda_lt *lt, const struct cuda_dev *d, const char *setting)
{
    char machine[CUDA_CHOICE_KEY];
    if (!lt || !setting || !strcmp(setting, "off"))
        return;
    snprintf(machine, sizeof machine, "%.*s, %d SMs, cuBLASLt %zu", (int)strcspn(d->name, ",\t\n"),
             d->name, d->sms, lt->cublasLtGetVersion_());
    char *path = cuda_tuning_path(setting);
    lt->tuning = cuda_tuning_open(path, machine, warn, (void *)(uintptr_t)d->host);
    free(path);
}

/* ---- running ------------------------------------------------------------------------------- */

#define LAYOUT(m) ((cublasLtMatrixLayout_t)(uintptr_t)&p->m) /* it reads them only */

static mr_status multiply(const struct cuda_lt *lt, const struct cuda_lt_product *p,
                          cublasLtMatmulDescOpaque_t *desc, const void *a, const void *b,
                          const void *from, void *c, const void *bias, void *ws,
                          cudaStream_t stream, mr_err *err)
{
    const float one = 1;
    uintptr_t room = ((uintptr_t)ws + WORKSPACE_ALIGN - 1) / WORKSPACE_ALIGN * WORKSPACE_ALIGN;
    uint64_t bytes = p->workspace ? p->workspace - WORKSPACE_ALIGN : 0;
    cublasStatus_t st = CUBLAS_STATUS_SUCCESS;
    if (p->has_bias)
        st = lt->cublasLtMatmulDescSetAttribute_(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                                 sizeof bias);
    if (!st)
        st = lt->cublasLtMatmul_(lt->handle, desc, &one, b, LAYOUT(a), a, LAYOUT(b), &p->beta,
                                 from, LAYOUT(c), c, LAYOUT(c), &p->algo, (void *)room, bytes,
                                 stream);
    if (!st)
        return MR_OK;
    return mr_fail(err, MR_E_DEVICE, MR_BLAME_ENV, "cublasLtMatmul: %s",
                   lt->cublasLtGetStatusString_(st));
}

mr_status cuda_lt_run(const struct cuda_lt *lt, const struct cuda_lt_product *p, const void *a,
                      const void *b, void *c, const void *bias, void *ws, cudaStream_t stream,
                      mr_err *err)
{
    return cuda_lt_run_from(lt, p, a, b, c, c, bias, ws, stream, err);
}

mr_status cuda_lt_run_from(const struct cuda_lt *lt, const struct cuda_lt_product *p, const void *a,
                           const void *b, const void *from, void *c, const void *bias, void *ws,
                           cudaStream_t stream, mr_err *err)
{
    cublasLtMatmulDescOpaque_t desc = p->desc; /* two streams may run one kernel: each its own */
    return multiply(lt, p, &desc, a, b, from, c, bias, ws, stream, err);
}

mr_status cuda_lt_run_scaled(const struct cuda_lt *lt, const struct cuda_lt_product *p,
                             const void *a, const float *a_scale, const void *b,
                             const float *b_scale, void *c, const void *bias, void *ws,
                             cudaStream_t stream, mr_err *err)
{
    cublasLtMatmulDescOpaque_t desc = p->desc;
    cublasStatus_t st = lt->cublasLtMatmulDescSetAttribute_(
        &desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &b_scale, sizeof b_scale); /* b is first */
    if (!st)
        st = lt->cublasLtMatmulDescSetAttribute_(&desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER,
                                                 &a_scale, sizeof a_scale);
    if (st)
        return mr_fail(err, MR_E_DEVICE, MR_BLAME_ENV, "cublasLt refuses a product's scales: %s",
                       lt->cublasLtGetStatusString_(st));
    return multiply(lt, p, &desc, a, b, c, c, bias, ws, stream, err);
}
