// SPDX-License-Identifier: Apache-2.0
//
// norm_rows.cu - rmsnorm, layernorm, both after a residual sum, and their gradients, with a row in
// registers: each operand is read once and each result written once. L lanes share a row, each with
// K times V neighbouring values. A backward block keeps its share of the weight's gradient in
// registers over all its rows, and a second kernel adds the blocks' shares in their order.
//
// Bytes of 16384 x 2048 bf16: forward 134 MB, with the sum 268; backward 201, with the stream's
// gradient 268, and 4 of partial sums that stay in L2. Floor at 4.27 TB/s: 31, 63, 47, 63 us.
// Rows that are not a multiple of 8 values wide, up to 1024, go value by value; what is wider
// than 8192 is left to norm.cu.

#include "rows.cuh"

// blocks of a gradient: as many as reside on 132 multiprocessors at once, by the width alone
static int64_t parts_for(int64_t n)
{
    return n <= 1024 ? 264 : n <= 2048 ? 396 : 132;
}

struct rows {
    struct kernel base;
    int64_t rows, n; // groups, and values in each
    int parts;
    float eps;
};

#define SELF const struct rows *k = (const struct rows *)base

// ---- forward: y of x, or of h = x + b ----------------------------------------------------------
template <typename F, int L, int K, int V, bool LAYER, bool ADD>
__global__ void __launch_bounds__(THREADS)
    rows_forward(const F *x, const F *b, arr w, arr bias, F *y, F *h, float *mean, float *rstd,
                 int64_t rows, int n, float eps)
{
    constexpr int G = THREADS / L;
    __shared__ __align__(16) float room[2][G][32];
    const int group = threadIdx.x / L, lane = threadIdx.x % L;
    const int64_t row = blockIdx.x * (int64_t)G + group;
    const bool on = row < rows;
    pack<F, V> p[K];
    float v[K][V], u[V], s[V] = {}, sum = 0, m = 0;
    x += row * n, y += row * n;
#pragma unroll
    for (int k = 0; k < K; k++)
        load<F, V>(p[k], x + (k * L + lane) * V, on && (k * L + lane) * V < n);
    if (ADD) {
        pack<F, V> q[K];
        b += row * n, h += row * n;
#pragma unroll
        for (int k = 0; k < K; k++)
            load<F, V>(q[k], b + (k * L + lane) * V, on && (k * L + lane) * V < n);
#pragma unroll
        for (int k = 0; k < K; k++) {
            unpack<F, V>(p[k], v[k]);
            unpack<F, V>(q[k], u);
#pragma unroll
            for (int j = 0; j < V; j++)
                v[k][j] = round_to(h, v[k][j] + u[j]);
            if (on && (k * L + lane) * V < n)
                stv<V>(h, (k * L + lane) * V, v[k]);
        }
    } else {
#pragma unroll
        for (int k = 0; k < K; k++)
            unpack<F, V>(p[k], v[k]);
    }
    if (LAYER) {
#pragma unroll
        for (int k = 0; k < K; k++)
#pragma unroll
            for (int j = 0; j < V; j++)
                m += v[k][j];
        m = row_sum<L>(m, room[1][group], 1 + group) / (float)n;
    }
#pragma unroll
    for (int k = 0; k < K; k++)
#pragma unroll
        for (int j = 0; j < V; j++)
            if (!LAYER)
                sum += v[k][j] * v[k][j];
            else if ((k * L + lane) * V < n)
                sum += (v[k][j] - m) * (v[k][j] - m);
    const float r = 1 / sqrtf(row_sum<L>(sum, room[0][group], 1 + group) / (float)n + eps);
    if (!on)
        return;
    if (!lane) {
        rstd[row] = r;
        if (LAYER)
            mean[row] = m;
    }
#pragma unroll
    for (int k = 0; k < K; k++) {
        const int at = (k * L + lane) * V;
        if (at >= n)
            break;
        if (w.p)
            getv<V>(w, at, u);
        if (LAYER && bias.p)
            getv<V>(bias, at, s);
#pragma unroll
        for (int j = 0; j < V; j++)
            if (LAYER) {
                v[k][j] = (v[k][j] - m) * r * u[j] + s[j];
            } else {
                v[k][j] = round_to(y, v[k][j] * r);
                v[k][j] = w.p ? v[k][j] * u[j] : v[k][j];
            }
        stv<V>(y, at, v[k]);
    }
}

// ---- backward ----------------------------------------------------------------------------------
// A thread has V values of each of its rows. All that a row's gradient reads is asked for while the
// row before is at work, and per value there are a dozen instructions: that is what it takes to
// keep up with the memory.
template <typename F, int V> struct wanted {
    pack<F, V> d, x, h;
    float r, m;
};

// sums[block][column]: this block's share of dw, and (plain) of dbias; NULL where not wanted.
// With g = dy w and c = rstd² mean(g n):  dx = rstd g - c x + (c mean - rstd mean(g)).
template <typename F, int L, int V, bool LAYER, int B, int MIN>
__global__ void __launch_bounds__(B, MIN)
    rows_backward(const F *dh, const F *dy, const F *x, arr w, const float *mean,
                  const float *rstd, F *dx, float *sums, float *plain, int64_t rows, int n)
{
    constexpr int G = B / L;
    __shared__ __align__(16) float room[2][LAYER ? 2 : 1][G][32];
    __shared__ float share[B * V];
    const int group = threadIdx.x / L, at = threadIdx.x % L * V;
    const int64_t step = gridDim.x * (int64_t)G;
    const bool in = at < n;
    float sw[V] = {}, sb[V] = {}, u[V];
    int turn = 0;
    for (int j = 0; j < V; j++)
        u[j] = 1;
    if (w.p && in)
        getv<V>(w, at, u);
    auto ask = [&](wanted<F, V> &a, int64_t row) {
        const bool there = in && row < rows;
        const int64_t i = row * n + at;
        a.r = row < rows ? rstd[row] : 0;
        a.m = LAYER && row < rows ? mean[row] : 0;
        load<F, V>(a.d, dy + i, there);
        load<F, V>(a.x, x + i, there);
        if (dh)
            load<F, V>(a.h, dh + i, there);
    };
    wanted<F, V> next;
    ask(next, blockIdx.x * (int64_t)G + group);
    for (int64_t row = blockIdx.x * (int64_t)G + group; row - group < rows; row += step) {
        const wanted<F, V> now = next;
        const float r = now.r, mr = now.m * r;
        float d[V], v[V], sg = 0, sgx = 0; // past the row's end d is 0
        ask(next, row + step);
        unpack<F, V>(now.d, d);
        unpack<F, V>(now.x, v);
#pragma unroll
        for (int j = 0; j < V; j++) {
            const float hat = LAYER ? v[j] * r - mr : v[j] * r;
            sw[j] += d[j] * hat;
            if (LAYER)
                sb[j] += d[j];
            d[j] *= u[j];
            if (LAYER)
                sg += d[j];
            sgx += d[j] * hat;
        }
        const float gn = row_sum<L>(sgx, room[turn][0][group], 1 + group) / (float)n;
        const float g = LAYER
            ? row_sum<L>(sg, room[turn][LAYER ? 1 : 0][group], 1 + group) / (float)n : 0;
        const float c = r * r * gn, shift = LAYER ? c * now.m - r * g : 0;
        turn ^= 1;
        if (!in || row >= rows)
            continue;
#pragma unroll
        for (int j = 0; j < V; j++)
            d[j] = r * d[j] - c * v[j] + shift;
        if (dh) {
            unpack<F, V>(now.h, v);
#pragma unroll
            for (int j = 0; j < V; j++)
                d[j] += v[j];
        }
        stv<V>(dx + row * n, at, d);
    }
#pragma unroll
    for (int what = 0; what < (LAYER ? 2 : 1); what++) {
        float *to = what ? plain : sums;
        if (!to)
            continue;
        __syncthreads();
#pragma unroll
        for (int j = 0; j < V; j++)
            share[threadIdx.x * V + j] = what ? sb[j] : sw[j];
        __syncthreads();
        for (int i = threadIdx.x; i < n; i += B) { // the rows' lanes of a column, in their order
            float s = 0;
            for (int l = 0; l < G; l++)
                s += share[l * L * V + i];
            to[blockIdx.x * (int64_t)n + i] = s;
        }
    }
}

// ---- running ----------------------------------------------------------------------------------
template <bool LAYER, bool ADD>
static void forward(const struct rows *k, const void *x, const void *b, arr w, arr bias, void *y,
                    void *h, void *mean, void *rstd, cudaStream_t stream)
{
    if (!k->rows)
        return;
    WITH_TYPE(k->base.in_kind[0], BY_WIDTH(k->n, {
        rows_forward<F, L, K, V, LAYER, ADD>
            <<<(unsigned)cuda_ceil(k->rows, THREADS / L), THREADS, 0, stream>>>(
                (const F *)x, (const F *)b, w, bias, (F *)y, (F *)h, (float *)mean, (float *)rstd,
                k->rows, (int)k->n, k->eps);
    }));
}

// B threads a block, MIN blocks a multiprocessor
#define BACK(lanes, threads, min, ...) \
    { \
        constexpr int L = lanes, B = threads, MIN = min; \
        __VA_ARGS__; \
    }
#define BY_WIDTH_BACK(n, ...) \
    do { \
        if ((n) % WIDE_V) { \
            constexpr int V = 1; \
            if ((n) <= 32) \
                BACK(32, 384, 2, __VA_ARGS__) \
            else \
                BACK(1024, 1024, 1, __VA_ARGS__) \
        } else { \
            constexpr int V = WIDE_V; \
            if ((n) <= 128) \
                BACK(16, 384, 2, __VA_ARGS__) \
            else if ((n) <= 256) \
                BACK(32, 384, 2, __VA_ARGS__) \
            else if ((n) <= 512) \
                BACK(64, 384, 2, __VA_ARGS__) \
            else if ((n) <= 768) \
                BACK(96, 384, 2, __VA_ARGS__) \
            else if ((n) <= 1024) \
                BACK(128, 384, 2, __VA_ARGS__) \
            else if ((n) <= 2048) \
                BACK(256, 256, 3, __VA_ARGS__) \
            else if ((n) <= 4096) \
                BACK(512, 512, 1, __VA_ARGS__) \
            else \
                BACK(1024, 1024, 1, __VA_ARGS__) \
        } \
    } while (0)

// dw and db: NULL where not wanted; ws holds a [parts, n] for each
template <bool LAYER>
static void backward(const struct rows *k, const void *dh, const void *dy, const void *x, arr w,
                     const void *mean, const void *rstd, void *dw, void *db, void *dx, void *ws,
                     cudaStream_t stream)
{
    float *sums = (float *)ws, *plain = sums + (dw ? k->parts * k->n : 0);
    if (!k->rows)
        return;
    WITH_TYPE(k->base.in_kind[0], BY_WIDTH_BACK(k->n, {
        rows_backward<F, L, V, LAYER, B, sizeof(F) == 2 ? MIN : 1>
            <<<(unsigned)k->parts, B, 0, stream>>>(
                (const F *)dh, (const F *)dy, (const F *)x, w, (const float *)mean,
                (const float *)rstd, (F *)dx, dw ? sums : nullptr, db ? plain : nullptr, k->rows,
                (int)k->n);
    }));
    if (dw)
        launch_add_shares(sums, (float *)dw, k->parts, k->n, stream);
    if (db)
        launch_add_shares(plain, (float *)db, k->parts, k->n, stream);
}

static mr_status rmsnorm_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    forward<false, false>(k, in[0].data, nullptr, in_arr(base, in, 1), arr{}, out[0].data, nullptr,
                          nullptr, out[1].data, stream);
    return cuda_launched(base, err);
}

static mr_status add_rmsnorm_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    forward<false, true>(k, in[0].data, in[1].data, in_arr(base, in, 2), arr{}, out[0].data,
                         out[1].data, nullptr, out[2].data, stream);
    return cuda_launched(base, err);
}

static mr_status layernorm_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    forward<true, false>(k, in[0].data, nullptr, in_arr(base, in, 1), in_arr(base, in, 2),
                         out[0].data, nullptr, out[1].data, out[2].data, stream);
    return cuda_launched(base, err);
}

static mr_status add_layernorm_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    forward<true, true>(k, in[0].data, in[1].data, in_arr(base, in, 2), in_arr(base, in, 3),
                        out[0].data, out[1].data, out[2].data, out[3].data, stream);
    return cuda_launched(base, err);
}

static mr_status rmsnorm_bwd_run(RUN_ARGS)
{
    SELF;
    backward<false>(k, nullptr, in[0].data, in[1].data, in_arr(base, in, 2), nullptr, in[3].data,
                    in[4].data, nullptr, out[0].data, ws, stream);
    return cuda_launched(base, err);
}

static mr_status add_rmsnorm_bwd_run(RUN_ARGS)
{
    SELF;
    backward<false>(k, in[0].data, in[1].data, in[2].data, in_arr(base, in, 3), nullptr,
                    in[4].data, in[5].data, nullptr, out[0].data, ws, stream);
    return cuda_launched(base, err);
}

static mr_status layernorm_bwd_run(RUN_ARGS)
{
    SELF;
    backward<true>(k, nullptr, in[0].data, in[1].data, in_arr(base, in, 2), in[3].data, in[4].data,
                   in[5].data, in[6].data, out[0].data, ws, stream);
    return cuda_launched(base, err);
}

static mr_status add_layernorm_bwd_run(RUN_ARGS)
{
    SELF;
    backward<true>(k, in[0].data, in[1].data, in[2].data, in_arr(base, in, 3), in[4].data,
                   in[5].data, in[6].data, in[7].data, out[0].data, ws, stream);
    return cuda_launched(base, err);
}

// ---- from types to kernels ---------------------------------------------------------------------
static mr_status shape(struct kernel *base, const mr_call *c, uint32_t x, int sums, mr_err *err)
{
    struct rows *k = (struct rows *)base;
    int64_t group = mr_attr_i(c, "group", 0);
    k->n = group > 0 ? group : mr_last(c->in[x]);
    k->rows = k->n ? mr_numel(c->in[x]) / k->n : 0;
    k->eps = (float)mr_attr_f(c, "eps", 1e-5);
    if (!rows_fit(k->n))
        return cuda_refuse(base, err, "rows above 8192 values, or 1024 if no multiple of 8");
    for (uint32_t i = 0; i <= x; i++)
        if (base->in_kind[i] != base->in_kind[x])
            return cuda_refuse(base, err, "gradient and values are of two dtypes");
    k->parts = (int)(k->rows < parts_for(k->n) ? k->rows : parts_for(k->n));
    base->workspace = (uint64_t)sums * (uint64_t)k->parts * (uint64_t)k->n * sizeof(float);
    return MR_OK;
}

static int has(const mr_call *c, uint32_t i)
{
    return i < c->n_in && c->in[i];
}

static mr_status rmsnorm_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = rmsnorm_run;
    return shape(base, c, 0, 0, err);
}

static mr_status add_rmsnorm_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = add_rmsnorm_run;
    return shape(base, c, 1, 0, err);
}

static mr_status layernorm_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = layernorm_run;
    return shape(base, c, 0, 0, err);
}

static mr_status rmsnorm_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = rmsnorm_bwd_run;
    return shape(base, c, 1, has(c, 4), err);
}

static mr_status add_rmsnorm_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = add_rmsnorm_bwd_run;
    return shape(base, c, 2, has(c, 5), err);
}

static mr_status layernorm_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = layernorm_bwd_run;
    return shape(base, c, 1, has(c, 5) + has(c, 6), err);
}

static mr_status add_layernorm_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = add_layernorm_run;
    return shape(base, c, 1, 0, err);
}

static mr_status add_layernorm_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = add_layernorm_bwd_run;
    return shape(base, c, 2, has(c, 6) + has(c, 7), err);
}

// in place: a thread has read its values before it writes them
const struct op_row cuda_norm_held_rows[] = {
    { "rmsnorm", "xX>xf", sizeof(struct rows), rmsnorm_prepare, MR_K_INPLACE0, 0 },
    { "rmsnorm.bwd", "xxXfF>x", sizeof(struct rows), rmsnorm_bwd_prepare, MR_K_INPLACE0, 0 },
    { "layernorm", "xxX>xff", sizeof(struct rows), layernorm_prepare, MR_K_INPLACE0, 0 },
    { "layernorm.bwd", "xxxffFF>x", sizeof(struct rows), layernorm_bwd_prepare, MR_K_INPLACE0, 0 },
    { "add_rmsnorm", "xxX>xxf", sizeof(struct rows), add_rmsnorm_prepare, 0, 0 },
    { "add_rmsnorm.bwd", "xxxXfF>x", sizeof(struct rows), add_rmsnorm_bwd_prepare, MR_K_INPLACE0,
      0 },
    { "add_layernorm", "xxxX>xxff", sizeof(struct rows), add_layernorm_prepare, 0, 0 },
    { "add_layernorm.bwd", "xxxxffFF>x", sizeof(struct rows), add_layernorm_bwd_prepare,
      MR_K_INPLACE0, 0 },
    {},
};
