// SPDX-License-Identifier: Apache-2.0
//
// argmax.cu - the place of each row's largest value. A cluster of blocks has a row, each block a
// share of it, all in 16-byte pieces where the row allows; the first joins their answers. Of equal
// values the lower place wins whoever finds it, so the order of reading does not matter.
// Bytes: the logits once, mostly from the L2; floor of one row: three latencies, about 3 us.

#include "early.cuh"
#include "vec.cuh"

enum { SHARES = 8, LEAST = 4096 }; // blocks of a row; values that are worth another

struct argmax {
    struct kernel base;
    int64_t rows, width;
    int shares;
};

struct best {
    float value;
    int at; // INT32_MAX: none yet
};

DEV best better(best a, best b)
{
    bool second = b.at != INT32_MAX &&
                  (a.at == INT32_MAX || b.value > a.value || (b.value == a.value && b.at < a.at));
    return second ? b : a;
}

DEV best warp_best(best b)
{
    for (int d = 16; d; d >>= 1)
        b = better(b, best{ __shfl_xor_sync(~0u, b.value, d), __shfl_xor_sync(~0u, b.at, d) });
    return b;
}

template <typename F, int V>
__global__ void __launch_bounds__(THREADS)
    row_best(const F *logits, int32_t *index, int64_t width, int shares)
{
    __shared__ float value[THREADS / 32], place[THREADS / 32];
    const int rank = (int)cluster_rank(), warp = threadIdx.x / 32;
    const F *row = logits + (int64_t)blockIdx.y * width;
    best b = { 0, INT32_MAX };
    next_may_start();
    previous_done();
#pragma unroll 4
    for (int64_t i = ((int64_t)rank * THREADS + threadIdx.x) * V; i < width;
         i += (int64_t)shares * THREADS * V) {
        float x[V];
        ldv<V>(row, i, x);
#pragma unroll
        for (int j = 0; j < V; j++)
            if (!isnan(x[j]))
                b = better(b, best{ x[j], (int)i + j });
    }
    b = warp_best(b);
    if (threadIdx.x % 32 == 0) {
        value[warp] = b.value;
        place[warp] = __int_as_float(b.at);
    }
    __syncthreads();
    if (warp == 0) {
        b = best{ 0, INT32_MAX };
        if (threadIdx.x < THREADS / 32)
            b = best{ value[threadIdx.x], __float_as_int(place[threadIdx.x]) };
        b = warp_best(b);
        if (threadIdx.x == 0) {
            value[0] = b.value;
            place[0] = __int_as_float(b.at);
        }
    }
    __syncwarp();
    cluster_sync();
    if (rank == 0 && threadIdx.x == 0) {
        for (int r = 1; r < shares; r++)
            b = better(b, best{ of_rank(&value[0], (uint32_t)r),
                                __float_as_int(of_rank(&place[0], (uint32_t)r)) });
        index[blockIdx.y] = b.at == INT32_MAX ? 0 : b.at;
    }
    cluster_sync(); // nobody reads here any more
}

static mr_status argmax_run(RUN_ARGS)
{
    const struct argmax *k = (const struct argmax *)base;
    const dim3 grid((unsigned)k->shares, (unsigned)k->rows);
    cudaError_t e = cudaSuccess;
    (void)ws;
    if (!k->rows)
        return MR_OK;
    WITH_TYPE(base->in_kind[0], WITH_V(k->width % WIDE_V == 0 && aligned16(in[0].data), (
        e = launch_early(base, row_best<F, V>, grid, THREADS, 0, k->shares, stream,
                         (const F *)in[0].data, (int32_t *)out[0].data, k->width, k->shares))));
    return e ? cuda_fail(err, e, base->op) : MR_OK;
}

static mr_status argmax_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct argmax *k = (struct argmax *)base;
    k->rows = c->in[0]->dim[0];
    k->width = c->in[0]->dim[1];
    if (k->rows > 65535)
        return cuda_refuse(base, err, "more than 65535 rows");
    k->shares = 1;
    while (base->dev->cc >= 90 && k->shares < SHARES && k->width > k->shares * (int64_t)LEAST)
        k->shares *= 2;
    base->run = argmax_run;
    return MR_OK;
}

const struct op_row cuda_argmax_rows[] = {
    { "argmax", "x>i", sizeof(struct argmax), argmax_prepare, 0, 0 },
    {},
};
