// SPDX-License-Identifier: Apache-2.0
//
// thin_linear.cu - products of up to 16 rows with bf16 weights [O,I], by thin_lines.cuh: linear,
// linear_add, linears (up to three of one input, which may be normalised) and linear_swiglu. More
// rows are cuBLASLt's.

#include "thin_lines.cuh"

enum { MOST_SHARED = 160 << 10, FEW_WARPS = 8, MANY_WARPS = 16 };

struct thin_linear {
    struct kernel base;
    thin_args p; // but for operands
    unsigned grid;
    int tiles;
};

#define SELF const struct thin_linear *k = (const struct thin_linear *)base

static bool wide_of(int64_t inner) // more terms than 8 warps have at once
{
    return inner > FEW_WARPS * LINE_TERMS;
}

template <int END>
static mr_status start(const struct thin_linear *k, const thin_args &p, cudaStream_t stream,
                       mr_err *err)
{
    size_t shared = lines_shared(p.rows, p.inner);
    cudaError_t e =
        wide_of(p.inner) ? launch_early(&k->base, thin_lines<MANY_WARPS, END>, dim3(k->grid),
                                        MANY_WARPS * 32, shared, 1, stream, p, k->tiles)
                         : launch_early(&k->base, thin_lines<FEW_WARPS, END>, dim3(k->grid),
                                        FEW_WARPS * 32, shared, 1, stream, p, k->tiles);
    return e ? cuda_fail(err, e, k->base.op) : MR_OK;
}

static mr_status linear_run(RUN_ARGS)
{
    SELF;
    thin_args p = k->p;
    (void)ws;
    p.x = (const bf16 *)in[0].data;
    p.w[0] = (const bf16 *)in[1].data;
    p.bias[0] = (const bf16 *)in[2].data;
    p.y[0] = out[0].data;
    return start<THIN_STORE>(k, p, stream, err);
}

static mr_status add_run(RUN_ARGS)
{
    SELF;
    thin_args p = k->p;
    (void)ws;
    p.a = (const bf16 *)in[0].data;
    p.x = (const bf16 *)in[1].data;
    p.w[0] = (const bf16 *)in[2].data;
    p.bias[0] = (const bf16 *)in[3].data;
    p.y[0] = out[0].data;
    return start<THIN_ADD>(k, p, stream, err);
}

static mr_status linears_run(RUN_ARGS)
{
    SELF;
    thin_args p = k->p;
    (void)ws;
    p.x = (const bf16 *)in[0].data;
    p.norm = (const bf16 *)in[1].data;
    for (uint32_t i = 0; i < base->n_out; i++) {
        p.w[i] = (const bf16 *)in[2 + i].data;
        p.y[i] = out[i].data;
    }
    return start<THIN_STORE>(k, p, stream, err);
}

static mr_status swiglu_run(RUN_ARGS)
{
    SELF;
    thin_args p = k->p;
    (void)ws;
    p.x = (const bf16 *)in[0].data;
    p.norm = (const bf16 *)in[1].data;
    p.w[0] = (const bf16 *)in[2].data;
    p.w[1] = (const bf16 *)in[3].data;
    p.y[0] = out[0].data;
    return start<THIN_SWIGLU>(k, p, stream, err);
}

// ---- from types to kernels ------------------------------------------------------------------
// x and its weights, `n` from operand `w` on; the other operands, if there, are bf16 too.
template <int END>
static mr_status shape(struct kernel *base, const mr_call *c, uint32_t x, uint32_t w, uint32_t n,
                       mr_err *err)
{
    struct thin_linear *k = (struct thin_linear *)base;
    int64_t rows = mr_rows(c->in[x]), inner = mr_last(c->in[x]), tiles = 0;
    for (uint32_t i = 0; i < c->n_in; i++)
        if (c->in[i] && base->in_kind[i] != CUDA_BF16)
            return cuda_refuse(base, err, "not all operands are bf16");
    if (rows < 1 || rows > LINE_ROWS || inner % 8 || inner < 8 || inner > 1 << 20 ||
        lines_shared((int)rows, (int)inner) > MOST_SHARED)
        return cuda_refuse(base, err, "not 1 to 16 rows of a multiple of 8 values, 160 KiB in all");
    for (uint32_t i = 0; i < n; i++) {
        int64_t outer = c->in[w + i]->dim[0];
        if (outer > 1 << 24)
            return cuda_refuse(base, err, "more than 2^24 columns");
        k->p.outer[i] = (int)outer;
        k->p.tiles[i] = (int)cuda_ceil(outer, END == THIN_SWIGLU ? LINES / 2 : LINES);
        tiles += k->p.tiles[i];
    }
    k->p.rows = (int)rows;
    k->p.inner = (int)inner;
    k->p.kind = base->out_kind[0];
    k->p.normed = (int)mr_attr_i(c, "normed", 0);
    k->p.eps = (float)mr_attr_f(c, "eps", 1e-5);
    int64_t most = (int64_t)base->dev->sms * (wide_of(inner) ? 1 : 2); // half of what fits
    k->tiles = (int)tiles;
    k->grid = (unsigned)(tiles < most ? tiles : most);
    base->impl = "own bf16, few rows";
    base->est_us = (double)tiles * LINES * (double)inner * 2 / 4e6;
    return want_shared(base, wide_of(inner) ? (const void *)thin_lines<MANY_WARPS, END>
                                        : (const void *)thin_lines<FEW_WARPS, END>, MOST_SHARED,
                       err);
}

static mr_status linear_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = linear_run;
    return shape<THIN_STORE>(base, c, 0, 1, 1, err);
}

static mr_status add_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = add_run;
    if (base->out_kind[0] != CUDA_BF16)
        return cuda_refuse(base, err, "not a bf16 sum");
    return shape<THIN_ADD>(base, c, 1, 2, 1, err);
}

static mr_status linears_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = linears_run;
    return shape<THIN_STORE>(base, c, 0, 2, c->n_out, err);
}

static mr_status swiglu_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = swiglu_run;
    return shape<THIN_SWIGLU>(base, c, 0, 2, 1, err);
}

const struct op_row cuda_thin_linear_rows[] = {
    { "linear", "xxX>x", sizeof(struct thin_linear), linear_prepare, 0, 0 },
    { "linear_add", "xxxX>x", sizeof(struct thin_linear), add_prepare, 0, 0 },
    { "linears", "xXxXX>xXX", sizeof(struct thin_linear), linears_prepare, 0, 0 },
    { "linear_swiglu", "xXxx>x", sizeof(struct thin_linear), swiglu_prepare, 0, 0 },
    {},
};
