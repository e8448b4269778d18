// SPDX-License-Identifier: Apache-2.0
//
// router_z_loss.cu - the loss that keeps the router's logits small, and its gradient: a warp a
// token, its row in registers; a block's terms, then all blocks', are added in double in a fixed
// order.
// Bytes: the logits once, backward twice; floor: bytes / the copy bandwidth (16384 x 384 f32 at
// 4.27 TB/s: 6 and 12 us).

#include "route.cuh"

struct z_args { // what a launch carries
    int tokens, experts;
    float coeff;
};

struct z_loss {
    struct kernel base;
    z_args a;
};

#define SELF const struct z_loss *k = (const struct z_loss *)base
#define KERNEL __global__ void __launch_bounds__(32 * ROUTE_WARPS)

static unsigned blocks_of(const z_args &a) // a warp a token
{
    return (unsigned)cuda_ceil(a.tokens, ROUTE_WARPS);
}

template <int N> KERNEL z_score(arr logits, float *lse, double *term, const z_args a)
{
    __shared__ double part[ROUTE_WARPS];
    int warp = threadIdx.x / 32, t = (int)blockIdx.x * ROUTE_WARPS + warp;
    float x[N], l = 0;
    if (t < a.tokens) {
        load_row<N>(logits, t, a.experts, x);
        l = row_lse<N>(x, a.experts);
    }
    if (threadIdx.x % 32 == 0) {
        part[warp] = (double)l * l;
        if (t < a.tokens)
            lse[t] = l;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double sum = 0;
        for (int w = 0; w < ROUTE_WARPS; w++)
            sum += part[w];
        term[blockIdx.x] = sum;
    }
}

static mr_status z_run(RUN_ARGS)
{
    SELF;
    const z_args &a = k->a;
    if (a.tokens)
        WITH_N(a.experts, (z_score<N><<<blocks_of(a), 32 * ROUTE_WARPS, 0, stream>>>(
            in_arr(base, in, 0), (float *)out[1].data, (double *)ws, a)));
    sum_terms<<<1, 1024, 0, stream>>>((const double *)ws, (float *)out[0].data,
                                      (int)blocks_of(a), a.coeff);
    return cuda_launched(base, err);
}

template <int N>
KERNEL z_bwd(arr dloss, arr logits, const float *lse, arr dlogits, const z_args a)
{
    int t = (int)blockIdx.x * ROUTE_WARPS + (int)threadIdx.x / 32;
    if (t >= a.tokens)
        return;
    float x[N], l = lse[t], unit = 2 * a.coeff * get(dloss, 0) * l;
    load_row<N>(logits, t, a.experts, x);
    EACH_EXPERT(e, a.experts)
        put(dlogits, (int64_t)t * a.experts + e, unit * expf(x[i] - l));
}

static mr_status z_bwd_run(RUN_ARGS)
{
    SELF;
    const z_args &a = k->a;
    (void)ws;
    if (a.tokens)
        WITH_N(a.experts, (z_bwd<N><<<blocks_of(a), 32 * ROUTE_WARPS, 0, stream>>>(
            in_arr(base, in, 0), in_arr(base, in, 1), (const float *)in[2].data,
            out_arr(base, out, 0), a)));
    return cuda_launched(base, err);
}

// ---- from types to kernels ------------------------------------------------------------------
static mr_status prepare(struct kernel *base, const mr_call *c, const mr_type *logits, mr_err *err)
{
    z_args *a = &((struct z_loss *)base)->a;
    if (logits->dim[1] > ROUTE_MAX_EXPERTS)
        return cuda_refuse(base, err, "more than 1024 experts");
    if (logits->dim[0] > INT32_MAX / ROUTE_MAX_EXPERTS)
        return cuda_refuse(base, err, "more tokens than 32-bit counters hold");
    a->tokens = (int)logits->dim[0];
    a->experts = (int)logits->dim[1];
    a->coeff = (float)mr_attr_f(c, "coeff", 0);
    return MR_OK;
}

static mr_status z_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    SELF;
    mr_status bad = prepare(base, c, c->in[0], err);
    base->run = z_run;
    base->workspace = bad ? 0 : (uint64_t)blocks_of(k->a) * sizeof(double);
    return bad;
}

static mr_status z_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = z_bwd_run;
    return prepare(base, c, c->in[1], err);
}

const struct op_row cuda_z_loss_rows[] = {
    { "router_z_loss", "x>ff", sizeof(struct z_loss), z_prepare, 0, 0 },
    { "router_z_loss.bwd", "xxf>x", sizeof(struct z_loss), z_bwd_prepare, 0, 0 },
    {},
};
