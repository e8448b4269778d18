// SPDX-License-Identifier: Apache-2.0
//
// fp8.cu - amax, and quantize with its transposed copy. amax: the bits of |x| order as the numbers
// do, NaN above all, so one integer maximum an element and atomics in any order give one answer.
// quantize: tiles of 64 x 64 through shared memory, rows read and both copies written whole
// sectors at a time. Bytes of bf16 [T, D]: 2 TD to read, 1 or 2 TD to write; floor of 16384 x 2048
// at 4.27 TB/s: amax 16 us, quantize 24 us (31 with the transpose).

#include "fp8.h"
#include "rows.cuh"
#include <cuda_fp8.h>

enum { TILE = 64, PAD = 4, LINES = THREADS / 16 };

struct amax {
    struct kernel base;
    int64_t n;
};

struct quantize {
    struct kernel base;
    int64_t rows, n;
    int e5m2, transposed, tiles;
};

// ---- amax ---------------------------------------------------------------------------------------

template <typename F>
__global__ void __launch_bounds__(THREADS) amax_kernel(const F *x, unsigned *amax, int64_t n)
{
    const int64_t step = (int64_t)gridDim.x * THREADS, packs = n / WIDE_V;
    unsigned most = 0;
    float v[WIDE_V];
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < packs; i += step) {
        ldv<WIDE_V>(x, i * WIDE_V, v);
#pragma unroll
        for (int j = 0; j < WIDE_V; j++)
            most = max(most, __float_as_uint(v[j]) & 0x7fffffffu);
    }
    if (!blockIdx.x && threadIdx.x < n % WIDE_V)
        most = max(most, __float_as_uint(ld(x, packs * WIDE_V + threadIdx.x)) & 0x7fffffffu);
    most = __reduce_max_sync(~0u, most);
    if (threadIdx.x % 32 == 0)
        atomicMax(amax, most);
}

static mr_status amax_run(RUN_ARGS)
{
    const struct amax *k = (const struct amax *)base;
    int64_t blocks = cuda_ceil(k->n, (int64_t)THREADS * WIDE_V * 4), most = base->dev->sms * 8;
    (void)ws;
    cudaError_t e = cudaMemsetAsync(out[0].data, 0, sizeof(float), stream);
    if (e)
        return cuda_fail(err, e, base->op);
    if (k->n)
        WITH_TYPE(base->in_kind[0],
                  (amax_kernel<<<(unsigned)(blocks < most ? blocks : most), THREADS, 0, stream>>>(
                      (const F *)in[0].data, (unsigned *)out[0].data, k->n)));
    return cuda_launched(base, err);
}

static mr_status amax_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct amax *k = (struct amax *)base;
    (void)err;
    k->n = mr_numel(c->in[0]);
    base->run = amax_run;
    return MR_OK;
}

// ---- quantize -----------------------------------------------------------------------------------

DEV float scale_of(const float *amax, float largest)
{
    float a = *amax, s = a > 0 && isfinite(a) ? a / largest : 1.0f;
    return s < 1e-30f ? 1e-30f : s;
}

// four codes in a word, the first in the low byte
template <bool E5M2> DEV uint32_t codes(const float *v, float by)
{
    const __nv_fp8_interpretation_t how = E5M2 ? __NV_E5M2 : __NV_E4M3;
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        word |= (uint32_t)__nv_cvt_float_to_fp8(v[i] * by, __NV_SATFINITE, how) << 8 * i;
    return word;
}

// n a multiple of 4, as is rows where there is a transpose
template <typename F, bool E5M2, bool T>
__global__ void __launch_bounds__(THREADS)
    quantize_kernel(const F *x, const float *amax, uint8_t *q, float *scale, uint8_t *qt,
                    int64_t rows, int64_t n)
{
    __shared__ uint32_t tile[TILE][(TILE + PAD) / 4]; // codes of a row, four a word
    const float s = scale_of(amax, E5M2 ? 57344.0f : 448.0f), by = 1.0f / s;
    const int64_t row0 = blockIdx.y * (int64_t)TILE, col0 = blockIdx.x * (int64_t)TILE;
    const int at = threadIdx.x % 16 * 4, line = threadIdx.x / 16;
    if (!blockIdx.x && !blockIdx.y && !threadIdx.x)
        *scale = s;
#pragma unroll
    for (int r = line; r < TILE; r += LINES) {
        const int64_t row = row0 + r, col = col0 + at;
        float v[4] = {};
        if (row < rows && col < n) {
            ldv<4>(x, row * n + col, v);
            uint32_t word = codes<E5M2>(v, by);
            *(uint32_t *)(q + row * n + col) = word;
            if (T)
                tile[r][at / 4] = word;
        }
    }
    if (!T)
        return;
    __syncthreads();
    const uint8_t *bytes = (const uint8_t *)tile;
#pragma unroll
    for (int c = line; c < TILE; c += LINES) { // a line of the transpose: column c, rows at .. at+3
        const int64_t col = col0 + c, row = row0 + at;
        if (col >= n || row >= rows)
            continue;
        uint32_t word = 0;
#pragma unroll
        for (int i = 0; i < 4; i++)
            word |= (uint32_t)bytes[(at + i) * (TILE + PAD) + c] << 8 * i;
        *(uint32_t *)(qt + col * rows + row) = word;
    }
}

// any shape, a value a thread
template <typename F, bool E5M2>
__global__ void __launch_bounds__(THREADS)
    quantize_any(const F *x, const float *amax, uint8_t *q, float *scale, uint8_t *qt,
                 int64_t rows, int64_t n)
{
    const __nv_fp8_interpretation_t how = E5M2 ? __NV_E5M2 : __NV_E4M3;
    const float s = scale_of(amax, E5M2 ? 57344.0f : 448.0f), by = 1.0f / s;
    const int64_t step = (int64_t)gridDim.x * THREADS;
    if (!blockIdx.x && !threadIdx.x)
        *scale = s;
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < rows * n; i += step) {
        uint8_t code = (uint8_t)__nv_cvt_float_to_fp8(ld(x, i) * by, __NV_SATFINITE, how);
        q[i] = code;
        if (qt)
            qt[i % n * rows + i / n] = code;
    }
}

template <typename F, bool E5M2>
static void launch_quantize(const struct quantize *k, const mr_buf *in, const mr_buf *out,
                            cudaStream_t stream)
{
    const dim3 grid((unsigned)cuda_ceil(k->n, TILE), (unsigned)cuda_ceil(k->rows, TILE));
    const F *x = (const F *)in[0].data;
    const float *amax = (const float *)in[1].data;
    uint8_t *q = (uint8_t *)out[0].data;
    float *scale = (float *)out[1].data;
    uint8_t *qt = k->transposed ? (uint8_t *)out[2].data : nullptr;
    int64_t blocks = cuda_ceil(k->rows * k->n, THREADS), most = (int64_t)k->base.dev->sms * 8;
    if (!k->tiles)
        quantize_any<F, E5M2><<<(unsigned)(blocks < most ? blocks : most), THREADS, 0, stream>>>(
            x, amax, q, scale, qt, k->rows, k->n);
    else if (k->transposed)
        quantize_kernel<F, E5M2, true>
            <<<grid, THREADS, 0, stream>>>(x, amax, q, scale, qt, k->rows, k->n);
    else
        quantize_kernel<F, E5M2, false><<<grid, THREADS, 0, stream>>>(x, amax, q, scale, nullptr,
                                                                      k->rows, k->n);
}

static mr_status quantize_run(RUN_ARGS)
{
    const struct quantize *k = (const struct quantize *)base;
    (void)ws;
    if (k->e5m2)
        WITH_TYPE(base->in_kind[0], (launch_quantize<F, true>(k, in, out, stream)));
    else
        WITH_TYPE(base->in_kind[0], (launch_quantize<F, false>(k, in, out, stream)));
    return cuda_launched(base, err);
}

static mr_status quantize_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct quantize *k = (struct quantize *)base;
    k->n = mr_last(c->in[0]);
    k->rows = mr_rows(c->in[0]);
    k->e5m2 = mr_is(c->out[0], "f8e5m2");
    k->transposed = c->n_out > 2 && c->out[2];
    if (!k->rows)
        return cuda_refuse(base, err, "no rows");
    k->tiles = k->n % 4 == 0 && !(k->transposed && k->rows % 4) &&
               k->rows <= (int64_t)65535 * TILE;
    base->run = quantize_run;
    return MR_OK;
}

// ---- any product: without cuBLASLt, or of shapes that it does not take --------------------------

template <bool E5M2> DEV float value(uint8_t code)
{
    __half_raw h = __nv_cvt_fp8_to_halfraw(code, E5M2 ? __NV_E5M2 : __NV_E4M3);
    return __half2float(*(__half *)&h);
}

DEV float value_of(const uint8_t *p, int64_t i, int e5m2)
{
    return e5m2 ? value<true>(p[i]) : value<false>(p[i]);
}

// one output a thread, the inner dim in its order
__global__ void __launch_bounds__(THREADS) plain_kernel(struct cuda_fp8_product p)
{
    const int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (i >= p.rows * p.cols)
        return;
    const uint8_t *a = p.a + i / p.cols * p.inner, *b = p.b + i % p.cols * p.inner;
    float sum = 0;
    for (int64_t k = 0; k < p.inner; k++)
        sum += value_of(a, k, p.a_e5m2) * value_of(b, k, p.b_e5m2);
    sum *= *p.a_scale * *p.b_scale;
    arr c = { p.c, p.c_kind }, bias = { (void *)p.bias, p.bias_kind };
    if (p.bias)
        sum += get(bias, i % p.cols);
    put(c, i, p.add ? get(c, i) + sum : sum);
}

cudaError_t cuda_fp8_plain(const struct cuda_fp8_product *p, cudaStream_t stream)
{
    int64_t n = p->rows * p->cols;
    if (n)
        plain_kernel<<<(unsigned)cuda_ceil(n, THREADS), THREADS, 0, stream>>>(*p);
    return cudaGetLastError();
}

const struct op_row cuda_fp8_rows[] = {
    { "amax", "x>f", sizeof(struct amax), amax_prepare, 0, 0 },
    { "quantize", "xf>qfQ", sizeof(struct quantize), quantize_prepare, 0, 0 },
    {},
};
