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

enum { PARTS = 264 };

struct rows {
    struct kernel base;
    int64_t rows, n; // groups, and values in each
    int parts;
    float eps;
};

#define SELF const struct rows *k = (const struct rows *)base

// ---- forward: y of x, or of h = x + b ----------------------------------------------------------
template <typename F, int L, int K, int V, bool LAYER, bool ADD>
__global__ void __launch_bounds__(BLOCK(L))
    rows_forward(const F *x, const F *b, arr w, arr bias, F *y, F *h, float *mean, float *rstd,
                 int64_t rows, int n, float eps)
{
    constexpr int G = BLOCK(L) / L;
    __shared__ float room[2][G][32];
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
// sums[block][column]: this block's share of dw, and (plain) of dbias; NULL where not wanted
template <typename F, int L, int K, int V, bool LAYER>
__global__ void __launch_bounds__(512, sizeof(F) * K == 2 ? 2 : 1)
    rows_backward(const F *dh, const F *dy, const F *x, arr w, const float *mean,
                  const float *rstd, F *dx, float *sums, float *plain, int64_t rows, int n)
{
    constexpr int G = 512 / L;
    __shared__ float room[2][LAYER ? 2 : 1][G][32], share[512 * V];
    const int group = threadIdx.x / L, lane = threadIdx.x % L;
    float sw[K][V] = {}, sb[K][V] = {};
    int turn = 0;
    for (int64_t first = blockIdx.x * (int64_t)G; first < rows; first += gridDim.x * (int64_t)G) {
        const int64_t row = first + group;
        const bool on = row < rows;
        const float r = on ? rstd[row] : 0, m = LAYER && on ? mean[row] : 0;
        pack<F, V> pd[K], px[K], ph[K];
        float d[V], v[V], u[V], g = 0, gn = 0;
#pragma unroll
        for (int k = 0; k < K; k++) {
            const int at = (k * L + lane) * V;
            const bool there = on && at < n;
            load<F, V>(pd[k], dy + row * n + at, there);
            load<F, V>(px[k], x + row * n + at, there);
            if (dh)
                load<F, V>(ph[k], dh + row * n + at, there);
        }
#pragma unroll
        for (int k = 0; k < K; k++) {
            const int at = (k * L + lane) * V;
            unpack<F, V>(pd[k], d);
            unpack<F, V>(px[k], v);
            if (w.p && at < n)
                getv<V>(w, at, u);
#pragma unroll
            for (int j = 0; j < V; j++) {
                const float hat = (v[j] - m) * r;
                const float gj = w.p ? d[j] * (at < n ? u[j] : 0) : d[j];
                sw[k][j] += at < n ? d[j] * hat : 0;
                if (LAYER) {
                    sb[k][j] += d[j];
                    g += gj;
                }
                gn += at < n ? gj * hat : 0;
            }
        }
        gn = row_sum<L>(gn, room[turn][0][group], 1 + group) / (float)n;
        if (LAYER)
            g = row_sum<L>(g, room[turn][LAYER ? 1 : 0][group], 1 + group) / (float)n;
        turn ^= 1;
#pragma unroll
        for (int k = 0; k < K; k++) {
            const int at = (k * L + lane) * V;
            if (!on || at >= n)
                break;
            unpack<F, V>(pd[k], d);
            unpack<F, V>(px[k], v);
            if (w.p)
                getv<V>(w, at, u);
#pragma unroll
            for (int j = 0; j < V; j++)
                d[j] = r * ((w.p ? d[j] * u[j] : d[j]) - g - (v[j] - m) * r * gn);
            if (dh) {
                unpack<F, V>(ph[k], v);
#pragma unroll
                for (int j = 0; j < V; j++)
                    d[j] += v[j];
            }
            stv<V>(dx + row * n, at, d);
        }
    }
#pragma unroll
    for (int what = 0; what < (LAYER ? 2 : 1); what++) {
        float *to = what ? plain : sums;
        if (!to)
            continue;
#pragma unroll
        for (int k = 0; k < K; k++) { // the rows' lanes of one column, added in their order
            __syncthreads();
#pragma unroll
            for (int j = 0; j < V; j++)
                share[threadIdx.x * V + j] = what ? sb[k][j] : sw[k][j];
            __syncthreads();
            for (int i = threadIdx.x; i < L * V; i += 512) {
                float s = 0;
                for (int l = 0; l < G; l++)
                    s += share[l * L * V + i];
                if (k * L * V + i < n)
                    to[blockIdx.x * (int64_t)n + k * L * V + i] = s;
            }
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
        constexpr int T = BLOCK(L);
        rows_forward<F, L, K, V, LAYER, ADD>
            <<<(unsigned)cuda_ceil(k->rows, T / L), T, 0, stream>>>(
                (const F *)x, (const F *)b, w, bias, (F *)y, (F *)h, (float *)mean, (float *)rstd,
                k->rows, (int)k->n, k->eps);
    }));
}

// dw and db: NULL where not wanted; ws holds a [parts, n] for each
template <bool LAYER>
static void backward(const struct rows *k, const void *dh, const void *dy, const void *x, arr w,
                     const void *mean, const void *rstd, void *dw, void *db, void *dx, void *ws,
                     cudaStream_t stream)
{
    float *sums = (float *)ws, *plain = sums + (dw ? k->parts * k->n : 0);
    if (!k->rows)
        return;
    WITH_TYPE(k->base.in_kind[0], BY_WIDTH(k->n, {
        rows_backward<F, L, K, V, LAYER><<<(unsigned)k->parts, 512, 0, stream>>>(
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
    k->parts = (int)(k->rows < PARTS ? k->rows : (int64_t)PARTS);
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
