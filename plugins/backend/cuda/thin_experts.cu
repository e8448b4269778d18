// SPDX-License-Identifier: Apache-2.0
//
// thin_experts.cu - the experts' products where an expert has few rows, by thin_product.cuh:
// grouped_linear, experts_swiglu (gathered, scored, normalised, gated) and experts_add (added to
// the stream). A block has 64 columns of one expert, found in the offsets on the device; only the
// weights of experts with rows are read, once for 16 rows of an expert. Up to 8 rows in all are
// about latencies: 16 warps a block, of gate and up 32 columns each, and pairs of blocks that share
// the inner dimension where tiles are fewer than multiprocessors (11 us for 4096 x 2048; alone 14,
// in fours 15, as larger clusters wait longer for their places). More rows keep all of them busy: 4 warps a block, 4.0 TB/s of an H200 with 64 rows for 16 experts.

#include "thin_product.cuh"

enum { COLUMNS = 64, WARPS = 4, FEW_WARPS = 16, FEW_ROWS = 8, MOST_SPLITS = 2, LEAST_SHARE = 512 };
enum { ROWS_AN_EXPERT = 8 };

struct thin_experts {
    struct kernel base;
    thin_args p; // but for operands
    int splits, io, few;
    dim3 grid;
};

#define SELF const struct thin_experts *k = (const struct thin_experts *)base

template <bool IO, int M, int END>
static cudaError_t launch(const struct thin_experts *k, const thin_args &p, cudaStream_t stream)
{
    if (k->few)
        return launch_early(&k->base, thin_product<IO, 4, 1, FEW_WARPS, END, true>, k->grid,
                            FEW_WARPS * 32, 0, k->splits, stream, p, k->splits);
    return launch_early(&k->base, thin_product<IO, M, 2, WARPS, END, true>, k->grid, WARPS * 32, 0,
                        1, stream, p, 1);
}

template <int M, int END>
static mr_status start(const struct thin_experts *k, const thin_args &p, cudaStream_t stream,
                       mr_err *err)
{
    cudaError_t e = k->io ? launch<true, M, END>(k, p, stream)
                          : launch<false, M, END>(k, p, stream);
    return e ? cuda_fail(err, e, k->base.op) : MR_OK;
}

static mr_status linear_run(RUN_ARGS)
{
    SELF;
    thin_args p = k->p;
    (void)ws;
    p.x = (const bf16 *)in[0].data;
    p.w[0] = (const bf16 *)in[1].data;
    p.offsets = (const int32_t *)in[2].data;
    p.y[0] = out[0].data;
    return start<4, THIN_STORE>(k, p, stream, err);
}

static mr_status swiglu_run(RUN_ARGS)
{
    SELF;
    thin_args p = k->p;
    (void)ws;
    p.x = (const bf16 *)in[0].data;
    p.norm = (const bf16 *)in[1].data;
    p.scores = (const float *)in[2].data;
    p.from = (const int32_t *)in[3].data;
    p.w[0] = (const bf16 *)in[4].data;
    p.offsets = (const int32_t *)in[5].data;
    p.y[0] = out[0].data;
    return start<8, THIN_SWIGLU>(k, p, stream, err);
}

static mr_status add_run(RUN_ARGS)
{
    SELF;
    thin_args p = k->p;
    (void)ws;
    p.a = (const bf16 *)in[0].data;
    p.b = (const bf16 *)in[1].data;
    p.x = (const bf16 *)in[2].data;
    p.from = (const int32_t *)in[3].data;
    p.w[0] = (const bf16 *)in[4].data;
    p.offsets = (const int32_t *)in[5].data;
    p.y[0] = out[0].data;
    return start<4, THIN_ADD>(k, p, stream, err);
}

// ---- from types to kernels ------------------------------------------------------------------
// `rows` of all experts, x of `inner` values, y of `outer`
template <int END>
static mr_status shape(struct kernel *base, const mr_call *c, int64_t rows, int64_t inner,
                       int64_t outer, int64_t experts, uint32_t x, uint32_t w, mr_err *err)
{
    struct thin_experts *k = (struct thin_experts *)base;
    if (base->in_kind[x] != CUDA_BF16 || base->in_kind[w] != CUDA_BF16 ||
        base->out_kind[0] != CUDA_BF16)
        return cuda_refuse(base, err, "not bf16");
    if (rows < 1 || rows > ROWS_AN_EXPERT * experts || rows > 1 << 20)
        return cuda_refuse(base, err, "more than 8 rows an expert");
    if (inner % 8 || outer % 8 || inner < 8 || inner > 1 << 24 || outer > 1 << 24)
        return cuda_refuse(base, err, "sizes are no multiples of 8");
    k->io = !strcmp(mr_attr_s(c, "layout", "io"), "io");
    k->p.rows = (int)rows;
    k->p.inner = (int)inner;
    k->p.outer[0] = (int)outer;
    k->p.tiles[0] = (int)cuda_ceil(outer, COLUMNS);
    k->p.kind = base->out_kind[0];
    k->p.experts = (int)experts;
    k->p.each = 1;
    k->p.normed = (int)mr_attr_i(c, "normed", 0);
    k->p.eps = (float)mr_attr_f(c, "eps", 1e-5);
    int64_t slots = rows < experts ? rows : experts;
    k->few = rows <= FEW_ROWS;
    if (k->few && END == THIN_SWIGLU)
        k->p.tiles[0] = (int)cuda_ceil(outer, COLUMNS / 2);
    k->splits = 1;
    while (k->few && base->dev->cc >= 90 && k->splits < MOST_SPLITS &&
           2 * k->splits * k->p.tiles[0] * slots <= base->dev->sms &&
           inner / (2 * k->splits) >= LEAST_SHARE)
        k->splits *= 2;
    k->grid = dim3((unsigned)(k->p.tiles[0] * k->splits), (unsigned)slots);
    base->impl = "own bf16, few rows an expert";
    base->est_us = (double)slots * (double)inner * (double)outer * 2 / 4e6;
    return MR_OK;
}

static mr_status linear_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    const mr_type *x = c->in[0], *w = c->in[1];
    int io = !strcmp(mr_attr_s(c, "layout", "io"), "io");
    base->run = linear_run;
    return shape<THIN_STORE>(base, c, x->dim[0], x->dim[1], w->dim[io ? 2 : 1], w->dim[0], 0, 1,
                             err);
}

static mr_status swiglu_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    const mr_type *x = c->in[0], *w = c->in[4];
    int64_t rows = c->in[3]->dim[0];
    mr_status st = shape<THIN_SWIGLU>(base, c, rows, x->dim[1], mr_last(c->out[0]), w->dim[0], 0,
                                      4, err);
    base->run = swiglu_run;
    ((struct thin_experts *)base)->p.each = x->dim[0] ? (int)(rows / x->dim[0]) : 1;
    if (!st && c->in[1] && base->in_kind[1] != CUDA_BF16)
        return cuda_refuse(base, err, "the norm's weight is not bf16");
    return st;
}

static mr_status add_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    const mr_type *y = c->in[2];
    base->run = add_run;
    if (base->in_kind[0] != CUDA_BF16 || (c->in[1] && base->in_kind[1] != CUDA_BF16))
        return cuda_refuse(base, err, "not bf16");
    return shape<THIN_ADD>(base, c, y->dim[0], y->dim[1], mr_last(c->out[0]), c->in[4]->dim[0], 2,
                           4, err);
}

const struct op_row cuda_thin_experts_rows[] = {
    { "grouped_linear", "xxi>x", sizeof(struct thin_experts), linear_prepare, 0, 0 },
    { "experts_swiglu", "xXFixi>x", sizeof(struct thin_experts), swiglu_prepare, 0, 0 },
    { "experts_add", "xXxixi>x", sizeof(struct thin_experts), add_prepare, 0, 0 },
    {},
};
