// SPDX-License-Identifier: Apache-2.0
//
// grouped_wgmma.cu - grouped_linear and its gradients by the kernel of grouped_wgmma.cuh, where it
// can serve: Hopper, bf16 operands, sizes that are multiples of 8. grouped.c takes the others.
// The copy engine's maps hold addresses and sizes only, no offsets: the host makes them at each
// launch, and a launch may be captured.

#include "grouped_wgmma.cuh"

// ---- launching ------------------------------------------------------------------------------
typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                              const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                              const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                              CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

struct matrices { // `count` of them, rows of `inner` elements
    uint32_t operand;
    int64_t inner, outer, count;
};

struct grouped_kernel {
    struct kernel base;
    const void *fn;
    size_t shared;
    unsigned grid;
    encode_fn encode;
    size_t matrix; // bytes of one of c's, where c is written whole, else 0
    matrices a, b;
    grouped_args p;
};

static CUresult encode(const grouped_kernel *k, CUtensorMap *map, const matrices &m, void *data)
{
    cuuint64_t dim[3] = { (cuuint64_t)m.inner, (cuuint64_t)m.outer, (cuuint64_t)m.count };
    cuuint64_t stride[2] = { dim[0] * 2, dim[0] * dim[1] * 2 };
    cuuint32_t box[3] = { BOX, BOX, 1 }, every[3] = { 1, 1, 1 };
    return k->encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, data, dim, stride, box, every,
                     CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                     CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

// One block: the warps' sums, in an order that the grid alone gives.
__global__ void __launch_bounds__(1024) add_squares(const double *sums, int n, float *acc)
{
    __shared__ double room[32];
    double sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        sum += sums[i];
    sum = block_sum_double(sum, room);
    if (threadIdx.x == 0)
        *acc = (float)(*acc + sum);
}

static mr_status grouped_run(RUN_ARGS)
{
    const grouped_kernel *k = (const grouped_kernel *)base;
    grouped_args p = k->p;
    CUtensorMap a, b;
    p.squares = (double *)(base->workspace ? ws : NULL);
    p.offsets = (const int32_t *)in[2].data;
    p.c = base->n_out ? out[0].data : in[3].data;
    if (!p.rows) {
        cudaError_t e = k->matrix ? cudaMemsetAsync(p.c, 0, k->matrix * p.experts, stream)
                                  : cudaSuccess;
        return e ? cuda_fail(err, e, base->op) : MR_OK;
    }
    CUresult bad = encode(k, &a, k->a, in[k->a.operand].data);
    bad = bad ? bad : encode(k, &b, k->b, in[k->b.operand].data);
    if (bad)
        return mr_fail(err, MR_E_DEVICE, MR_BLAME_PLUGIN,
                       "backend/cuda: %s: cuTensorMapEncodeTiled answered %d", base->op, (int)bad);
    void *args[] = { &a, &b, &p };
    cudaError_t e = cudaLaunchKernel(k->fn, dim3(k->grid), dim3(BLOCK), args, k->shared, stream);
    if (!e && p.squares)
        add_squares<<<1, 1024, 0, stream>>>(p.squares, (int)k->grid * (MULTIPLIERS / 32),
                                            (float *)in[3].data);
    return e ? cuda_fail(err, e, base->op) : cuda_launched(base, err);
}

template <class P> static mr_status ready(grouped_kernel *k, mr_err *err)
{
    const struct kernel *b = &k->base;
    const grouped_args &p = k->p;
    cudaDriverEntryPointQueryResult found;
    cudaFuncAttributes attr;
    void *entry = NULL;
    int clusters = 0;
    if (b->dev->cc != 90)
        return cuda_refuse(b, err, "this row is for Hopper");
    int64_t tiles = cuda_ceil(P::INNER ? p.m : p.rows, TILE), columns = cuda_ceil(p.n, TILE);
    if (tiles * p.experts * columns > INT32_MAX)
        return cuda_refuse(b, err, "too many tiles to number");
    k->fn = (const void *)grouped<P>;
    k->shared = P::STARTS_AT + ((size_t)p.experts + 1) * sizeof(int32_t);
    k->p.columns = (int32_t)columns;
    cudaError_t e = cudaFuncGetAttributes(&attr, k->fn);
    if (!e && attr.numRegs < 64) // an image for plain sm_90: the kernel is empty
        return cuda_refuse(b, err, "this build has no sm_90a code");
    mr_status bad = e ? cuda_fail(err, e, b->op) : want_shared(b, k->fn, k->shared, err);
    if (bad)
        return bad;
    e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                         cudaEnableDefault, &found);
    if (e || found != cudaDriverEntryPointSuccess)
        return cuda_refuse(b, err, "the driver has no cuTensorMapEncodeTiled");
    k->encode = (encode_fn)entry;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)b->dev->sms / 2 * 2);
    config.blockDim = dim3(BLOCK);
    config.dynamicSmemBytes = k->shared;
    e = cudaOccupancyMaxActiveClusters(&clusters, k->fn, &config);
    if (e)
        return cuda_fail(err, e, b->op);
    if (!clusters)
        return cuda_refuse(b, err, "no pair of multiprocessors is free for a cluster");
    k->grid = 2 * (unsigned)clusters;
    k->base.run = grouped_run;
    k->base.impl = "own wgmma bf16";
    return MR_OK;
}

static int is_io(const mr_call *c)
{
    return !strcmp(mr_attr_s(c, "layout", "io"), "io");
}

// sizes that the copy engine can fetch: lines on borders of 16 bytes
static bool fits(int64_t n)
{
    return n > 0 && n % 8 == 0 && n <= INT32_MAX;
}

static mr_status sizes(grouped_kernel *k, int64_t rows, int64_t m, int64_t n, int64_t inner,
                       int64_t experts, mr_err *err)
{
    const struct kernel *b = &k->base;
    if (b->in_kind[0] != CUDA_BF16 || b->in_kind[1] != CUDA_BF16)
        return cuda_refuse(b, err, "this row is for bf16");
    if (!fits(m) || !fits(n) || !fits(inner) || rows > INT32_MAX - 256 || experts < 1 ||
        experts > INT32_MAX)
        return cuda_refuse(b, err, "this row needs sizes that are multiples of 8");
    k->p.rows = (int32_t)rows;
    k->p.m = (int32_t)m;
    k->p.n = (int32_t)n;
    k->p.k = (int32_t)inner;
    k->p.experts = (int32_t)experts;
    k->base.est_us = 2e6 * (double)rows * (double)n * (double)(b->n_out ? inner : m) / 700e12;
    return MR_OK;
}

// The weight's rows run along k ("as is") or along the columns of the result ("turned").
static mr_status rows_prepare(grouped_kernel *k, const mr_call *c, bool turned, mr_err *err)
{
    const mr_type *x = c->in[0], *w = c->in[1];
    int64_t n = w->dim[turned ? 2 : 1];
    mr_status bad = sizes(k, x->dim[0], 8, n, x->dim[1], w->dim[0], err);
    if (bad)
        return bad;
    k->a = matrices{ 0, x->dim[1], x->dim[0], 1 };
    k->b = matrices{ 1, w->dim[2], w->dim[1], w->dim[0] };
    return turned ? ready<plan<false, true>>(k, err) : ready<plan<false, false>>(k, err);
}

static mr_status forward_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    return rows_prepare((grouped_kernel *)base, c, is_io(c), err);
}

static mr_status dgrad_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    return rows_prepare((grouped_kernel *)base, c, !is_io(c), err);
}

// dW_e = x^T dy, or its transpose dy^T x where the weight is [O, I]
template <bool ADD>
static mr_status inner_prepare(struct kernel *base, const mr_call *c, const mr_type *dw, mr_err *err)
{
    grouped_kernel *k = (grouped_kernel *)base;
    uint32_t a = is_io(c) ? 0 : 1, b = 1 - a;
    int64_t rows = c->in[0]->dim[0], m = c->in[a]->dim[1], n = c->in[b]->dim[1];
    mr_status bad = sizes(k, rows, m, n, 8, dw->dim[0], err);
    if (bad)
        return bad;
    base->est_us = 2e6 * (double)rows * (double)n * (double)m / 700e12;
    k->a = matrices{ a, m, rows, 1 };
    k->b = matrices{ b, n, rows, 1 };
    k->matrix = ADD ? 0 : (size_t)(m * n) * sizeof(float);
    return ready<plan<true, true, ADD>>(k, err);
}

static mr_status wgrad_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    return inner_prepare<true>(base, c, c->in[3], err);
}

static mr_status wgrad_first_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    mr_status st = inner_prepare<false>(base, c, c->out[0], err);
    if (!st && c->n_in > 3 && c->in[3])
        base->workspace = ((grouped_kernel *)base)->grid * (MULTIPLIERS / 32) * sizeof(double);
    return st;
}

const struct op_row cuda_grouped_wgmma_rows[] = {
    { "grouped_linear", "xxi>x", sizeof(grouped_kernel), forward_prepare, 0, 0 },
    { "grouped_linear.dgrad", "xxi>x", sizeof(grouped_kernel), dgrad_prepare, 0, 0 },
    { "grouped_linear.wgrad", "xxif>", sizeof(grouped_kernel), wgrad_prepare, 0, 0 },
    { "grouped_linear.wgrad.first", "xxiF>f", sizeof(grouped_kernel), wgrad_first_prepare, 0, 0 },
    {},
};
