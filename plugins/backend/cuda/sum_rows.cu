// SPDX-License-Identifier: Apache-2.0
//
// sum_rows.cu - acc += column sums of x, a bias's gradient. A block adds a share of the rows of 256
// columns, 16 bytes a thread; a second kernel adds the shares in their order. Bytes: x once; floor
// of 65536 x 3072 bf16 at 4.27 TB/s: 94 us. Rows that are no multiple of 8 wide are norm.cu's.

#include "rows.cuh"

enum { COLS = 32 * WIDE_V, LANES = THREADS / 32, BLOCKS = 1056, DEPTH = 4 };

struct sum_rows {
    struct kernel base;
    int64_t rows, n;
    int parts;
};

template <typename F>
__global__ void __launch_bounds__(THREADS)
    column_shares(const F *x, float *sums, int64_t rows, int64_t n)
{
    __shared__ float room[LANES][COLS];
    const int lane = threadIdx.x / 32, at = threadIdx.x % 32 * WIDE_V;
    const int64_t col = blockIdx.x * (int64_t)COLS + at, step = gridDim.y * (int64_t)LANES;
    float sum[WIDE_V] = {}, v[WIDE_V];
    int64_t row = blockIdx.y * (int64_t)LANES + lane;
    x += col;
    for (; row + (DEPTH - 1) * step < rows && col < n; row += DEPTH * step) {
        pack<F, WIDE_V> p[DEPTH];
#pragma unroll
        for (int i = 0; i < DEPTH; i++)
            p[i] = *(const pack<F, WIDE_V> *)(x + (row + i * step) * n);
#pragma unroll
        for (int i = 0; i < DEPTH; i++) {
            unpack<F, WIDE_V>(p[i], v);
#pragma unroll
            for (int j = 0; j < WIDE_V; j++)
                sum[j] += v[j];
        }
    }
    for (; row < rows && col < n; row += step) {
        ldv<WIDE_V>(x, row * n, v);
#pragma unroll
        for (int j = 0; j < WIDE_V; j++)
            sum[j] += v[j];
    }
#pragma unroll
    for (int j = 0; j < WIDE_V; j++)
        room[lane][at + j] = sum[j];
    __syncthreads();
    const int64_t mine = blockIdx.x * (int64_t)COLS + threadIdx.x;
    float s = 0;
    for (int l = 0; l < LANES; l++)
        s += room[l][threadIdx.x];
    if (mine < n)
        sums[blockIdx.y * n + mine] = s;
}

static mr_status run(RUN_ARGS)
{
    const struct sum_rows *k = (const struct sum_rows *)base;
    const dim3 grid((unsigned)cuda_ceil(k->n, COLS), (unsigned)k->parts);
    (void)out;
    if (!k->rows)
        return MR_OK;
    WITH_TYPE(base->in_kind[0], (column_shares<F><<<grid, THREADS, 0, stream>>>(
        (const F *)in[0].data, (float *)ws, k->rows, k->n)));
    cudaError_t e = launch_add_shares(base, (const float *)ws, (float *)in[1].data, nullptr,
                                      k->parts, k->n, stream);
    return e ? cuda_fail(err, e, base->op) : cuda_launched(base, err);
}

static mr_status prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct sum_rows *k = (struct sum_rows *)base;
    k->n = mr_last(c->in[0]);
    k->rows = mr_rows(c->in[0]);
    if (k->n % WIDE_V || k->n > 1 << 30)
        return cuda_refuse(base, err, "rows that are no multiple of 8 wide");
    int64_t parts = BLOCKS / cuda_ceil(k->n, COLS), most = cuda_ceil(k->rows, LANES);
    parts = parts < 1 ? 1 : parts;
    k->parts = (int)(parts < most ? parts : most);
    base->workspace = (uint64_t)k->parts * (uint64_t)k->n * sizeof(float);
    base->run = run;
    return MR_OK;
}

const struct op_row cuda_sum_rows_rows[] = {
    { "sum_rows", "xf>", sizeof(struct sum_rows), prepare, 0, 0 },
    {},
};
