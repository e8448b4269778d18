// SPDX-License-Identifier: Apache-2.0
//
// norm.cu - rmsnorm, layernorm, their gradients and sum_rows of rows that norm_rows.cu and
// sum_rows.cu leave: wider than registers hold, or no multiple of 8 wide. A block a row, which it
// reads twice. Weight gradients are column sums in two stages: a part of the rows a block, then the
// parts in their order. Bytes: forward x and y, backward dy and x and dx, once more from L2 or
// memory.

#include "vec.cuh"

enum { COLS = 32, LANES = THREADS / COLS, MAX_PARTS = 128 };

struct norm {
    struct kernel base;
    int64_t rows, n; // groups, and values in each
    int parts, has_mean;
    float eps;
};

#define SELF const struct norm *k = (const struct norm *)base

// L lanes a row: this thread's row and lane
#define ROW_OF(L) \
    const int64_t row = blockIdx.x * (int64_t)(THREADS / L) + threadIdx.x / L; \
    const int lane = threadIdx.x % L; \
    if (row >= rows) \
    return

// ---- forward ------------------------------------------------------------------------------
template <typename F, int L, int V>
__global__ void __launch_bounds__(THREADS)
    rmsnorm(const F *x, arr w, F *y, float *rstd, int64_t rows, int64_t n, float eps)
{
    __shared__ float room[32];
    ROW_OF(L);
    float sum = 0, v[V], u[V];
    x += row * n;
    y += row * n;
    for (int64_t i = lane * V; i < n; i += L * V) {
        ldv<V>(x, i, v);
#pragma unroll
        for (int j = 0; j < V; j++)
            sum += v[j] * v[j];
    }
    sum = lanes_sum<L>(sum, room);
    float r = 1 / sqrtf(sum / (float)n + eps);
    if (!lane)
        rstd[row] = r;
    for (int64_t i = lane * V; i < n; i += L * V) {
        ldv<V>(x, i, v);
        if (w.p)
            getv<V>(w, i, u);
#pragma unroll
        for (int j = 0; j < V; j++) {
            v[j] = round_to(y, v[j] * r);
            v[j] = w.p ? v[j] * u[j] : v[j];
        }
        stv<V>(y, i, v);
    }
}

template <typename F, int L, int V>
__global__ void __launch_bounds__(THREADS)
    layernorm(const F *x, arr w, arr b, F *y, float *mean, float *rstd, int64_t rows, int64_t n,
              float eps)
{
    __shared__ float room[2][32];
    ROW_OF(L);
    float sum = 0, var = 0, v[V], u[V], s[V] = {};
    x += row * n;
    y += row * n;
    for (int64_t i = lane * V; i < n; i += L * V) {
        ldv<V>(x, i, v);
#pragma unroll
        for (int j = 0; j < V; j++)
            sum += v[j];
    }
    float m = lanes_sum<L>(sum, room[0]) / (float)n;
    for (int64_t i = lane * V; i < n; i += L * V) {
        ldv<V>(x, i, v);
#pragma unroll
        for (int j = 0; j < V; j++)
            var += (v[j] - m) * (v[j] - m);
    }
    float r = 1 / sqrtf(lanes_sum<L>(var, room[1]) / (float)n + eps);
    if (!lane) {
        mean[row] = m;
        rstd[row] = r;
    }
    for (int64_t i = lane * V; i < n; i += L * V) {
        ldv<V>(x, i, v);
        getv<V>(w, i, u);
        if (b.p)
            getv<V>(b, i, s);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = (v[j] - m) * r * u[j] + s[j];
        stv<V>(y, i, v);
    }
}

// ---- backward: dx -------------------------------------------------------------------------
template <typename F, int L, int V>
__global__ void __launch_bounds__(THREADS)
    rmsnorm_dx(const F *dy, const F *x, arr w, const float *rstd, F *dx, int64_t rows, int64_t n)
{
    __shared__ float room[32];
    ROW_OF(L);
    float r = rstd[row], sum = 0, d[V], v[V], u[V];
    dy += row * n;
    x += row * n;
    dx += row * n;
    for (int64_t i = lane * V; i < n; i += L * V) {
        ldv<V>(dy, i, d);
        ldv<V>(x, i, v);
        if (w.p)
            getv<V>(w, i, u);
#pragma unroll
        for (int j = 0; j < V; j++)
            sum += d[j] * (w.p ? u[j] : 1) * (v[j] * r);
    }
    float mean = lanes_sum<L>(sum, room) / (float)n;
    for (int64_t i = lane * V; i < n; i += L * V) {
        ldv<V>(dy, i, d);
        ldv<V>(x, i, v);
        if (w.p)
            getv<V>(w, i, u);
#pragma unroll
        for (int j = 0; j < V; j++)
            d[j] = r * (d[j] * (w.p ? u[j] : 1) - v[j] * r * mean);
        stv<V>(dx, i, d);
    }
}

template <typename F, int L, int V>
__global__ void __launch_bounds__(THREADS)
    layernorm_dx(const F *dy, const F *x, arr w, const float *mean, const float *rstd, F *dx,
                 int64_t rows, int64_t n)
{
    __shared__ float room[2][32];
    ROW_OF(L);
    float m = mean[row], r = rstd[row], g = 0, gn = 0, d[V], v[V], u[V];
    dy += row * n;
    x += row * n;
    dx += row * n;
    for (int64_t i = lane * V; i < n; i += L * V) {
        ldv<V>(dy, i, d);
        ldv<V>(x, i, v);
        getv<V>(w, i, u);
#pragma unroll
        for (int j = 0; j < V; j++) {
            g += d[j] * u[j];
            gn += d[j] * u[j] * ((v[j] - m) * r);
        }
    }
    g = lanes_sum<L>(g, room[0]) / (float)n;
    gn = lanes_sum<L>(gn, room[1]) / (float)n;
    for (int64_t i = lane * V; i < n; i += L * V) {
        ldv<V>(dy, i, d);
        ldv<V>(x, i, v);
        getv<V>(w, i, u);
#pragma unroll
        for (int j = 0; j < V; j++)
            d[j] = r * (d[j] * u[j] - g - (v[j] - m) * r * gn);
        stv<V>(dx, i, d);
    }
}

// ---- column sums: of dy n (with rstd), of dy (without) --------------------------------------
// Block (x: COLS columns, y: a part of the rows) writes sums[part][column], and behind all of
// them the plain sums of dy, if asked for.
template <typename F>
__global__ void __launch_bounds__(THREADS)
    column_parts(const F *dy, const F *x, const float *mean, const float *rstd, float *sums,
                 float *plain, int64_t rows, int64_t n)
{
    __shared__ float room[2][LANES][COLS];
    int64_t col = blockIdx.x * (int64_t)COLS + threadIdx.x % COLS;
    int64_t part = (rows + gridDim.y - 1) / gridDim.y, lo = blockIdx.y * part;
    int64_t hi = lo + part < rows ? lo + part : rows;
    int lane = threadIdx.x / COLS;
    float s = 0, p = 0;
    for (int64_t row = lo + lane; row < hi && col < n; row += LANES) {
        float d = ld(dy, row * n + col);
        p += d;
        if (rstd)
            s += d * ((ld(x, row * n + col) - (mean ? mean[row] : 0)) * rstd[row]);
    }
    room[0][lane][threadIdx.x % COLS] = s;
    room[1][lane][threadIdx.x % COLS] = p;
    __syncthreads();
    if (lane || col >= n)
        return;
    s = p = 0;
    for (int l = 0; l < LANES; l++) {
        s += room[0][l][threadIdx.x];
        p += room[1][l][threadIdx.x];
    }
    if (sums)
        sums[blockIdx.y * n + col] = s;
    if (plain)
        plain[blockIdx.y * n + col] = p;
}

__global__ void add_parts(const float *sums, float *dst, int parts, int64_t n)
{
    GRID_LOOP(i, n) {
        float s = 0;
        for (int p = 0; p < parts; p++)
            s += sums[p * n + i];
        dst[i] += s;
    }
}

// dw and db: NULL where not wanted; ws holds a [parts, n] for each
static void column_sums(const struct norm *k, int kind, const void *dy, const void *x,
                        const float *mean, const float *rstd, float *dw, float *db, void *ws,
                        cudaStream_t stream)
{
    float *sums = (float *)ws, *plain = sums + (dw ? k->parts * k->n : 0);
    dim3 grid((unsigned)cuda_ceil(k->n, COLS), (unsigned)k->parts);
    WITH_TYPE(kind, (column_parts<F><<<grid, THREADS, 0, stream>>>(
        (const F *)dy, (const F *)x, mean, rstd, dw ? sums : nullptr, db ? plain : nullptr, k->rows,
        k->n)));
    if (dw)
        add_parts<<<grid_for(k->n), THREADS, 0, stream>>>(sums, dw, k->parts, k->n);
    if (db)
        add_parts<<<grid_for(k->n), THREADS, 0, stream>>>(plain, db, k->parts, k->n);
}

// ---- running ------------------------------------------------------------------------------
#define BY_ROWS(kernel, kind, addresses, ...) \
    WITH_V(k->n % WIDE_V == 0 && aligned16 addresses, WITH_TYPE(kind, { \
               kernel<F, THREADS, V><<<(unsigned)k->rows, THREADS, 0, stream>>>(__VA_ARGS__); \
           }))

static mr_status rmsnorm_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->rows)
        BY_ROWS(rmsnorm, base->in_kind[0], (in[0].data, in[1].data, out[0].data),
                (const F *)in[0].data, in_arr(base, in, 1),
                (F *)out[0].data, (float *)out[1].data, k->rows, k->n, k->eps);
    return cuda_launched(base, err);
}

static mr_status layernorm_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->rows)
        BY_ROWS(layernorm, base->in_kind[0],
                (in[0].data, in[1].data, in[2].data, out[0].data), (const F *)in[0].data,
                in_arr(base, in, 1), in_arr(base, in, 2), (F *)out[0].data,
                (float *)out[1].data, (float *)out[2].data, k->rows, k->n, k->eps);
    return cuda_launched(base, err);
}

static mr_status rmsnorm_bwd_run(RUN_ARGS)
{
    SELF;
    if (!k->rows)
        return MR_OK;
    const float *rstd = (const float *)in[3].data;
    BY_ROWS(rmsnorm_dx, base->in_kind[0], (in[0].data, in[1].data, in[2].data, out[0].data),
            (const F *)in[0].data, (const F *)in[1].data,
            in_arr(base, in, 2), rstd, (F *)out[0].data, k->rows, k->n);
    if (in[4].data)
        column_sums(k, base->in_kind[0], in[0].data, in[1].data, nullptr, rstd,
                    (float *)in[4].data, nullptr, ws, stream);
    return cuda_launched(base, err);
}

static mr_status layernorm_bwd_run(RUN_ARGS)
{
    SELF;
    if (!k->rows)
        return MR_OK;
    const float *mean = (const float *)in[3].data, *rstd = (const float *)in[4].data;
    float *dw = (float *)in[5].data, *db = (float *)in[6].data;
    BY_ROWS(layernorm_dx, base->in_kind[0], (in[0].data, in[1].data, in[2].data, out[0].data),
            (const F *)in[0].data, (const F *)in[1].data,
            in_arr(base, in, 2), mean, rstd, (F *)out[0].data, k->rows, k->n);
    if (dw || db)
        column_sums(k, base->in_kind[0], in[0].data, in[1].data, mean, rstd, dw, db, ws, stream);
    return cuda_launched(base, err);
}

static mr_status sum_rows_run(RUN_ARGS)
{
    SELF;
    (void)out;
    if (k->rows)
        column_sums(k, base->in_kind[0], in[0].data, nullptr, nullptr, nullptr, nullptr,
                    (float *)in[1].data, ws, stream);
    return cuda_launched(base, err);
}

// ---- from types to kernels ------------------------------------------------------------------
static void shape(struct norm *k, const mr_call *c, const mr_type *x, int64_t n, int sums)
{
    int64_t parts = 0;
    k->n = n;
    k->rows = n ? mr_numel(x) / n : 0;
    parts = cuda_ceil(k->rows, 4 * LANES);
    k->parts = parts < 1 ? 1 : parts > MAX_PARTS ? (int)MAX_PARTS : (int)parts;
    k->eps = (float)mr_attr_f(c, "eps", 1e-5);
    k->base.workspace = (uint64_t)sums * (uint64_t)k->parts * (uint64_t)n * sizeof(float);
}

static int64_t group_of(const mr_call *c, const mr_type *x)
{
    int64_t n = mr_attr_i(c, "group", 0);
    return n > 0 ? n : mr_last(x);
}

static mr_status rmsnorm_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    (void)err;
    shape((struct norm *)base, c, c->in[0], group_of(c, c->in[0]), 0);
    base->run = rmsnorm_run;
    return MR_OK;
}

static mr_status rmsnorm_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    int has_dw = c->n_in > 4 && c->in[4];
    if (base->in_kind[0] != base->in_kind[1])
        return cuda_refuse(base, err, "dy and x are of two dtypes");
    shape((struct norm *)base, c, c->in[1], group_of(c, c->in[1]), has_dw);
    base->run = rmsnorm_bwd_run;
    return MR_OK;
}

static mr_status layernorm_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    (void)err;
    shape((struct norm *)base, c, c->in[0], mr_last(c->in[0]), 0);
    base->run = layernorm_run;
    return MR_OK;
}

static mr_status layernorm_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    int sums = (c->n_in > 5 && c->in[5]) + (c->n_in > 6 && c->in[6]);
    if (base->in_kind[0] != base->in_kind[1])
        return cuda_refuse(base, err, "dy and x are of two dtypes");
    shape((struct norm *)base, c, c->in[1], mr_last(c->in[1]), sums);
    base->run = layernorm_bwd_run;
    return MR_OK;
}

static mr_status sum_rows_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    (void)err;
    shape((struct norm *)base, c, c->in[0], mr_last(c->in[0]), 1);
    base->run = sum_rows_run;
    return MR_OK;
}

const struct op_row cuda_norm_rows[] = {
    { "rmsnorm", "xX>xf", sizeof(struct norm), rmsnorm_prepare, 0, 0 },
    { "rmsnorm.bwd", "xxXfF>x", sizeof(struct norm), rmsnorm_bwd_prepare, 0, 0 },
    { "layernorm", "xxX>xff", sizeof(struct norm), layernorm_prepare, 0, 0 },
    { "layernorm.bwd", "xxxffFF>x", sizeof(struct norm), layernorm_bwd_prepare, 0, 0 },
    { "sum_rows", "xf>", sizeof(struct norm), sum_rows_prepare, 0, 0 },
    {},
};
