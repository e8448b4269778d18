// SPDX-License-Identifier: Apache-2.0
//
// thin_linear.cu - products of few rows with bf16 weights [O,I]: linear, linear_add, linears (up to
// three of one input, which may be normalised) and linear_swiglu. Up to 8 rows by thin_stream.cuh,
// up to 16 by thin_product.cuh, more are cuBLASLt's. A tile is 16 rows of the weight (of each, for
// a gated unit); where tiles leave multiprocessors idle, clusters of blocks share the inner
// dimension.

#include "thin_stream.cuh"

enum { MOST_ROWS = 16, WARPS = 8, MOST_SPLITS = 8, LEAST_SHARE = 512, MOST_SHARED = 200 << 10 };

struct thin_linear {
    struct kernel base;
    thin_args p; // but for operands
    int splits, share; // share: terms of a split, in the stream's stages; 0: no stream
    unsigned grid;
};

#define SELF const struct thin_linear *k = (const struct thin_linear *)base

template <int M, int END>
static mr_status start(const struct thin_linear *k, const thin_args &p, cudaStream_t stream,
                       mr_err *err)
{
    const dim3 grid(k->grid);
    cudaError_t e =
        k->share ? launch_early(&k->base, thin_stream<false, END, false>, grid, STREAM_THREADS,
                                stream_bytes(p.rows, k->share), k->splits, stream, p, k->splits,
                                k->share)
                 : launch_early(&k->base, thin_product<false, M, 2, WARPS, END, false>, grid,
                                WARPS * 32, 0, k->splits, stream, p, k->splits);
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
    return start<1, THIN_STORE>(k, p, stream, err);
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
    return start<1, THIN_ADD>(k, p, stream, err);
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
    return start<1, THIN_STORE>(k, p, stream, err);
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
    return start<2, THIN_SWIGLU>(k, p, stream, err);
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
    if (rows < 1 || rows > MOST_ROWS || inner % 8 || inner < 8 || inner > 1 << 24)
        return cuda_refuse(base, err, "not 1 to 16 rows of a multiple of 8 values");
    for (uint32_t i = 0; i < n; i++) {
        int64_t outer = c->in[w + i]->dim[0];
        if (outer > 1 << 24)
            return cuda_refuse(base, err, "more than 2^24 columns");
        k->p.outer[i] = (int)outer;
        k->p.tiles[i] = (int)cuda_ceil(outer, 16);
        tiles += k->p.tiles[i];
    }
    k->p.rows = (int)rows;
    k->p.inner = (int)inner;
    k->p.kind = base->out_kind[0];
    k->p.normed = (int)mr_attr_i(c, "normed", 0);
    k->p.eps = (float)mr_attr_f(c, "eps", 1e-5);
    k->splits = 1;
    while (base->dev->cc >= 90 && k->splits < MOST_SPLITS && tiles * k->splits <= base->dev->sms &&
           inner / (2 * k->splits) >= LEAST_SHARE)
        k->splits *= 2;
    k->grid = (unsigned)(tiles * k->splits);
    k->share = stream_share((int)inner, k->splits, stream_tile<false, END>::KC);
    size_t shared = stream_bytes((int)rows, k->share);
    if (rows > STREAM_ROWS || shared > MOST_SHARED || base->dev->cc < 80) {
        k->share = 0;
    } else {
        int64_t most = base->dev->sms / k->splits; // blocks of which all run at once
        k->grid = (unsigned)((tiles < most ? tiles : most) * k->splits);
        mr_status st = want_shared(base, (const void *)thin_stream<false, END, false>, MOST_SHARED,
                                   err);
        if (st)
            return st;
    }
    base->impl = "own bf16, few rows";
    base->est_us = (double)tiles * 16 * (double)inner * 2 / 4e6;
    return MR_OK;
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
