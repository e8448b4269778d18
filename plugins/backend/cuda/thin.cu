// SPDX-License-Identifier: Apache-2.0
//
// thin.cu - gradients of a product with few outputs, a router's: f32 gradients of its logits [T,O]
// times bf16 weights [O,I] or inputs [T,I]. Too few flops for tensor cores and mixed dtypes, so
// what counts is to read x, or to read and write dx, once.
//   dgrad  dx = a + dy w:     a thread has 8 columns of 4 tokens, w comes from L1
//   wgrad  dw += dyᵀ x:       a thread has 4 columns of 16 outputs, the tokens of its block's share
//                             pass by; a second kernel adds the shares in their order
// 2 T O I flops on the fp32 units. T 16384, I 2048, O 16, floors at 4.27 TB/s: dgrad with a 134 MB,
// 31 us (19 us of fp32 beside it), wgrad 67 MB, 16 us (19 us of fp32).

#include "vec.cuh"

enum {
    MOST = 64,              // outputs of a dgrad
    GROUP = 4, TOKENS = 16, // dgrad: tokens of a thread at a time, of a block
    OUTPUTS = 16, COLUMNS = 4, LANES = 128, HALVES = 2, SHARES = 66, CHUNK = 32, DEPTH = 8 // wgrad
};

struct thin {
    struct kernel base;
    int64_t tokens, width;
    int outputs, shares;
};

#define SELF const struct thin *k = (const struct thin *)base

__global__ void __launch_bounds__(THREADS)
    thin_dgrad(const bf16 *a, const float *dy, const bf16 *w, bf16 *dx, int64_t tokens, int width,
               int outputs)
{
    __shared__ float d[MOST][TOKENS];
    const int64_t token0 = blockIdx.x * (int64_t)TOKENS;
    const int col = (blockIdx.y * THREADS + threadIdx.x) * 8;
    for (int i = threadIdx.x; i < TOKENS * outputs; i += THREADS) {
        const int t = i / outputs, o = i % outputs;
        d[o][t] = token0 + t < tokens ? dy[(token0 + t) * outputs + o] : 0;
    }
    __syncthreads();
    if (col >= width)
        return;
    for (int g = 0; g < TOKENS && token0 + g < tokens; g += GROUP) {
        float sum[GROUP][8] = {}, v[8];
        uint4 was[GROUP] = {}; // a, on its way while the products are made
#pragma unroll
        for (int t = 0; t < GROUP; t++)
            if (a && token0 + g + t < tokens)
                was[t] = *(const uint4 *)(a + (token0 + g + t) * width + col);
#pragma unroll 4
        for (int o = 0; o < outputs; o++) {
            ldv<8>(w, (int64_t)o * width + col, v);
            const float4 f = *(const float4 *)&d[o][g];
            const float e[GROUP] = { f.x, f.y, f.z, f.w };
#pragma unroll
            for (int t = 0; t < GROUP; t++)
#pragma unroll
                for (int j = 0; j < 8; j++)
                    sum[t][j] += e[t] * v[j];
        }
#pragma unroll
        for (int t = 0; t < GROUP; t++) {
            const int64_t at = (token0 + g + t) * width + col;
            if (token0 + g + t >= tokens)
                break;
            ldv<8>((const bf16 *)&was[t], 0, v);
#pragma unroll
            for (int j = 0; j < 8; j++)
                sum[t][j] += v[j];
            stv<8>(dx, at, sum[t]);
        }
    }
}

// Block (x: columns, y: share of the tokens, z: 16 outputs); sums[share][output][column].
__global__ void __launch_bounds__(LANES *HALVES, 2)
    thin_wgrad(const float *dy, const bf16 *x, float *sums, int64_t tokens, int width, int outputs)
{
    __shared__ float4 d[HALVES][CHUNK][OUTPUTS / 4];
    __shared__ float room[OUTPUTS][COLUMNS][LANES];
    const int half = threadIdx.x / LANES, lane = threadIdx.x % LANES, out0 = blockIdx.z * OUTPUTS;
    const int col = (blockIdx.x * LANES + lane) * COLUMNS;
    const int64_t part = (tokens + gridDim.y * HALVES - 1) / (gridDim.y * HALVES);
    const int64_t lo = (blockIdx.y * (int64_t)HALVES + half) * part;
    const int64_t hi = lo + part < tokens ? lo + part : tokens;
    float sum[OUTPUTS][COLUMNS] = {}, ahead[CHUNK * OUTPUTS / LANES];
    auto ask = [&](int64_t i) { // this thread's part of the gradients of the chunk at i
#pragma unroll
        for (int e = 0; e < CHUNK * OUTPUTS / LANES; e++) {
            const int64_t t = lo + i + (e * LANES + lane) / OUTPUTS;
            const int o = out0 + (e * LANES + lane) % OUTPUTS;
            ahead[e] = t < hi && o < outputs ? dy[t * outputs + o] : 0;
        }
    };
    ask(0);
    for (int64_t i = 0; i < part; i += CHUNK) { // as often in both halves: they share barriers
        __syncthreads();
#pragma unroll
        for (int e = 0; e < CHUNK * OUTPUTS / LANES; e++)
            ((float *)d[half])[e * LANES + lane] = ahead[e];
        __syncthreads();
        ask(i + CHUNK);
        if (col >= width || lo + i >= hi)
            continue;
        for (int first = 0; first < CHUNK; first += DEPTH) {
            uint2 raw[DEPTH];
#pragma unroll
            for (int t = 0; t < DEPTH; t++) { // past the end: the last row, times zeros
                const int64_t row = lo + i + first + t;
                raw[t] = *(const uint2 *)(x + (row < hi ? row : hi - 1) * width + col);
            }
#pragma unroll
            for (int t = 0; t < DEPTH; t++) {
                const float v[COLUMNS] = { __uint_as_float(raw[t].x << 16),
                                           __uint_as_float(raw[t].x & 0xffff0000u),
                                           __uint_as_float(raw[t].y << 16),
                                           __uint_as_float(raw[t].y & 0xffff0000u) };
#pragma unroll
                for (int q = 0; q < OUTPUTS / 4; q++) {
                    const float4 f = d[half][first + t][q];
                    const float e[4] = { f.x, f.y, f.z, f.w };
#pragma unroll
                    for (int o = 0; o < 4; o++)
#pragma unroll
                        for (int c = 0; c < COLUMNS; c++)
                            sum[4 * q + o][c] += e[o] * v[c];
                }
            }
        }
    }
    if (half)
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++)
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
                room[o][c][lane] = sum[o][c];
    __syncthreads();
    if (half || col >= width)
        return;
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++)
        if (out0 + o < outputs)
            *(float4 *)(sums + (blockIdx.y * (int64_t)outputs + out0 + o) * width + col) =
                float4{ sum[o][0] + room[o][0][lane], sum[o][1] + room[o][1][lane],
                        sum[o][2] + room[o][2][lane], sum[o][3] + room[o][3][lane] };
}

__global__ void __launch_bounds__(THREADS) thin_add(const float *sums, float *dw, int shares, int n)
{
    GRID_LOOP(i, n) {
        float s = 0;
#pragma unroll 16
        for (int p = 0; p < shares; p++)
            s += sums[p * (int64_t)n + i];
        dw[i] += s;
    }
}

static cudaError_t dgrad(const struct thin *k, const void *a, const void *dy, const void *w,
                         void *dx, cudaStream_t stream)
{
    const dim3 grid((unsigned)cuda_ceil(k->tokens, TOKENS),
                    (unsigned)cuda_ceil(k->width, 8 * THREADS));
    thin_dgrad<<<grid, THREADS, 0, stream>>>((const bf16 *)a, (const float *)dy, (const bf16 *)w,
                                             (bf16 *)dx, k->tokens, (int)k->width, k->outputs);
    return cudaGetLastError();
}

static mr_status dgrad_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    cudaError_t e = dgrad(k, nullptr, in[0].data, in[1].data, out[0].data, stream);
    return e ? cuda_fail(err, e, base->op) : MR_OK;
}

static mr_status dgrad_add_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    cudaError_t e = dgrad(k, in[0].data, in[1].data, in[2].data, out[0].data, stream);
    return e ? cuda_fail(err, e, base->op) : MR_OK;
}

static mr_status wgrad_run(RUN_ARGS)
{
    SELF;
    const dim3 grid((unsigned)cuda_ceil(k->width, COLUMNS * LANES), (unsigned)k->shares,
                    (unsigned)cuda_ceil(k->outputs, OUTPUTS));
    const int n = k->outputs * (int)k->width;
    (void)out;
    thin_wgrad<<<grid, LANES * HALVES, 0, stream>>>((const float *)in[0].data,
                                                    (const bf16 *)in[1].data, (float *)ws,
                                                    k->tokens, (int)k->width, k->outputs);
    thin_add<<<grid_for(n), THREADS, 0, stream>>>((const float *)ws, (float *)in[2].data, k->shares,
                                                  n);
    return cuda_launched(base, err);
}

// dy is operand `at`, the bf16 matrix the next
static mr_status shape(struct kernel *base, const mr_call *c, uint32_t at, int64_t width, int most,
                       mr_err *err)
{
    struct thin *k = (struct thin *)base;
    const int64_t outputs = mr_last(c->in[at]);
    k->tokens = mr_rows(c->in[at]);
    k->width = width;
    k->outputs = (int)outputs;
    if (base->in_kind[at] != CUDA_F32 || base->in_kind[at + 1] != CUDA_BF16 || outputs > most ||
        width % 8 || width > 1 << 20 || k->tokens < 1)
        return cuda_refuse(base, err, "not an f32 gradient of few outputs beside bf16");
    return MR_OK;
}

static mr_status dgrad_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = dgrad_run;
    base->impl = "fp32 units, few outputs";
    if (base->out_kind[0] != CUDA_BF16)
        return cuda_refuse(base, err, "not a bf16 result");
    return shape(base, c, 0, c->in[1]->dim[1], MOST, err);
}

static mr_status dgrad_add_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = dgrad_add_run;
    base->impl = "fp32 units, few outputs";
    if (base->out_kind[0] != CUDA_BF16)
        return cuda_refuse(base, err, "not a bf16 result");
    return shape(base, c, 1, c->in[2]->dim[1], MOST, err);
}

static mr_status wgrad_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct thin *k = (struct thin *)base;
    mr_status st = shape(base, c, 0, mr_last(c->in[1]), 512, err);
    int64_t shares = cuda_ceil(k->tokens, CHUNK);
    k->shares = shares < SHARES ? (int)shares : (int)SHARES;
    base->run = wgrad_run;
    base->impl = "fp32 units, few outputs";
    base->workspace = (uint64_t)k->shares * (uint64_t)k->outputs * (uint64_t)k->width *
                      sizeof(float);
    return st;
}

const struct op_row cuda_thin_rows[] = {
    { "linear.dgrad", "fx>x", sizeof(struct thin), dgrad_prepare, 0, 0 },
    { "linear_add.dgrad", "xfx>x", sizeof(struct thin), dgrad_add_prepare, MR_K_INPLACE0, 0 },
    { "linear.wgrad", "fxf>", sizeof(struct thin), wgrad_prepare, 0, 0 },
    {},
};
