// SPDX-License-Identifier: Apache-2.0
//
// ahead.cu - what stands some tokens further on in the same sequence. One block: the operands are a
// number a token, 200 KB at most, and the sums that scale loss weights are then the block's own,
// in double and in a fixed order.
// Bytes: x, seq_start (each twice with `keep`) and y, 4 a token; the launch is the floor.

#include "dev.cuh"

enum { AHEAD_THREADS = 1024 };

struct ahead {
    struct kernel base;
    int64_t tokens, by;
    double keep;
};

#define SELF const struct ahead *k = (const struct ahead *)base
#define KERNEL __global__ void __launch_bounds__(AHEAD_THREADS)

DEV bool sees(const int32_t *start, int64_t t, int64_t by, int64_t tokens)
{
    return by < tokens - t && start[t + by] == start[t];
}

KERNEL ids_ahead(const int32_t *x, const int32_t *start, int32_t *y, int64_t tokens, int64_t by)
{
    for (int64_t t = threadIdx.x; t < tokens; t += AHEAD_THREADS)
        y[t] = sees(start, t, by, tokens) ? x[t + by] : 0;
}

template <typename F>
KERNEL weights_ahead(const F *x, const int32_t *start, F *y, int64_t tokens, int64_t by,
                     double keep)
{
    __shared__ double room[AHEAD_THREADS / 32];
    double all = 0, left = 0, scale = 1;
    if (keep > 0) {
        for (int64_t t = threadIdx.x; t < tokens; t += AHEAD_THREADS) {
            all += ld(x, t);
            left += sees(start, t, by, tokens) ? ld(x, t + by) : 0;
        }
        all = block_sum_double(all, room);
        __syncthreads(); // the room is read
        left = block_sum_double(left, room);
        scale = left == 0 ? 0 : keep * all / left;
    }
    for (int64_t t = threadIdx.x; t < tokens; t += AHEAD_THREADS)
        st(y, t, sees(start, t, by, tokens) ? (float)(scale * ld(x, t + by)) : 0);
}

static mr_status ids_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    ids_ahead<<<1, AHEAD_THREADS, 0, stream>>>((const int32_t *)in[0].data,
                                               (const int32_t *)in[1].data,
                                               (int32_t *)out[0].data, k->tokens, k->by);
    return cuda_launched(base, err);
}

static mr_status weights_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    WITH_TYPE(base->in_kind[0], (weights_ahead<F><<<1, AHEAD_THREADS, 0, stream>>>(
                                    (const F *)in[0].data, (const int32_t *)in[1].data,
                                    (F *)out[0].data, k->tokens, k->by, k->keep)));
    return cuda_launched(base, err);
}

static mr_status ahead_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct ahead *k = (struct ahead *)base;
    k->tokens = c->in[0]->dim[0];
    k->by = mr_attr_i(c, "by", 1);
    k->keep = mr_attr_f(c, "keep", 0);
    base->run = mr_is(c->in[0], "i32") ? ids_run : weights_run;
    (void)err;
    return MR_OK;
}

const struct op_row cuda_ahead_rows[] = {
    { "ahead", "ii>i", sizeof(struct ahead), ahead_prepare, 0, 0 },
    { "ahead", "xi>x", sizeof(struct ahead), ahead_prepare, 0, 0 },
    {},
};
