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

#include "norm_rows.cuh"

// blocks of a gradient: as many as reside on 132 multiprocessors at once, by the width alone
static int64_t parts_for(int64_t n)
{
    return n <= 2048 ? 264 : 132;
}

struct rows {
    struct kernel base;
    int64_t rows, n; // groups, and values in each
    int parts;
    float eps;
};

#define SELF const struct rows *k = (const struct rows *)base

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

// L lanes a row, each with K pieces; B threads a block, MIN blocks a multiprocessor
#define BACK(lanes, pieces, threads, min, ...) \
    { \
        constexpr int L = lanes, K = pieces, B = threads, MIN = min; \
        __VA_ARGS__; \
    }
#define BY_WIDTH_BACK(n, ...) \
    do { \
        if ((n) % WIDE_V) { \
            constexpr int V = 1; \
            if ((n) <= 32) \
                BACK(32, 1, 384, 2, __VA_ARGS__) \
            else \
                BACK(1024, 1, 1024, 1, __VA_ARGS__) \
        } else { \
            constexpr int V = WIDE_V; \
            if ((n) <= 128) \
                BACK(16, 1, 384, 2, __VA_ARGS__) \
            else if ((n) <= 256) \
                BACK(32, 1, 384, 2, __VA_ARGS__) \
            else if ((n) <= 512) \
                BACK(64, 1, 384, 2, __VA_ARGS__) \
            else if ((n) <= 768) \
                BACK(96, 1, 384, 2, __VA_ARGS__) \
            else if ((n) <= 1024) \
                BACK(128, 1, 384, 2, __VA_ARGS__) \
            else if ((n) <= 2048) \
                BACK(128, 2, 256, 2, __VA_ARGS__) \
            else if ((n) <= 4096) \
                BACK(256, 2, 512, 1, __VA_ARGS__) \
            else \
                BACK(512, 2, 512, 1, __VA_ARGS__) \
        } \
    } while (0)

// dw and db: NULL where not wanted; ws holds a [parts, n] for each
template <bool LAYER>
static mr_status backward(const struct rows *k, const void *dh, const void *dy, const void *x,
                          arr w, const void *mean, const void *rstd, void *dw, void *db, void *dx,
                          void *ws, cudaStream_t stream, mr_err *err)
{
    float *sums = (float *)ws, *plain = sums + (dw ? k->parts * k->n : 0);
    if (!k->rows)
        return MR_OK;
    WITH_TYPE(k->base.in_kind[0], BY_WIDTH_BACK(k->n, {
        rows_backward<F, L, K, V, LAYER, B, sizeof(F) == 2 ? MIN : 1>
            <<<(unsigned)k->parts, B, 0, stream>>>(
                (const F *)dh, (const F *)dy, (const F *)x, w, (const float *)mean,
                (const float *)rstd, (F *)dx, dw ? sums : nullptr, db ? plain : nullptr, k->rows,
                (int)k->n);
    }));
    cudaError_t e = launch_add_shares(&k->base, sums, (float *)dw, (float *)db, k->parts, k->n,
                                      stream);
    return e ? cuda_fail(err, e, k->base.op) : cuda_launched(&k->base, err);
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
    return backward<false>(k, nullptr, in[0].data, in[1].data, in_arr(base, in, 2), nullptr,
                           in[3].data, in[4].data, nullptr, out[0].data, ws, stream, err);
}

static mr_status add_rmsnorm_bwd_run(RUN_ARGS)
{
    SELF;
    return backward<false>(k, in[0].data, in[1].data, in[2].data, in_arr(base, in, 3), nullptr,
                           in[4].data, in[5].data, nullptr, out[0].data, ws, stream, err);
}

static mr_status layernorm_bwd_run(RUN_ARGS)
{
    SELF;
    return backward<true>(k, nullptr, in[0].data, in[1].data, in_arr(base, in, 2), in[3].data,
                          in[4].data, in[5].data, in[6].data, out[0].data, ws, stream, err);
}

static mr_status add_layernorm_bwd_run(RUN_ARGS)
{
    SELF;
    return backward<true>(k, in[0].data, in[1].data, in[2].data, in_arr(base, in, 3), in[4].data,
                          in[5].data, in[6].data, in[7].data, out[0].data, ws, stream, err);
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
