// SPDX-License-Identifier: Apache-2.0
//
// router_score.cuh - scores by which the router's losses judge, and the choices that they count:
// the K best of a token by its logits alone, without bias or groups. What router_losses.cu (the
// loss of all tokens) and moe_balance.cu (of tokens spread over ranks) share.

#ifndef MRUN_CUDA_ROUTER_SCORE_CUH
#define MRUN_CUDA_ROUTER_SCORE_CUH
#include "segments.cuh"

enum { SLICE = 32 };

struct loss_args { // what a launch carries
    int tokens, experts, k, by_sequence, is_sigmoid, chunks, slices;
    float coeff;
};

// Logits to scores, in place; returns what norms them: the log of the sum of exponentials, or the
// sum of sigmoids. Scores are statistics: the units' own exponential is exact enough (2^-20).
template <int N> DEV float scores(float x[N], const loss_args &a)
{
    float norm = 1e-20f;
    if (!a.is_sigmoid) {
        norm = row_lse<N>(x, a.experts);
        EACH_EXPERT(e, a.experts)
            x[i] = __expf(x[i] - norm);
        return norm;
    }
    float sum = 0;
    EACH_EXPERT(e, a.experts)
        sum += x[i] = __fdividef(1.0f, 1.0f + __expf(-x[i]));
    norm += warp_sum(sum);
    EACH_EXPERT(e, a.experts)
        x[i] = __fdividef(x[i], norm);
    return norm;
}

// A warp counts the K best of a token. Scores rise with the logits; where they are NaN, all are,
// and the first K are chosen.
template <int N>
DEV void count_best(const float x[N], float norm, float *score, uint32_t *room, int *count,
                    const loss_args &a)
{
    uint32_t key[N] = {};
    choice c = { (int)(threadIdx.x % 32), (int)(threadIdx.x % 32) };
    if (isnan(norm) || a.k > ROUTE_MAX_CHOSEN) {
        for (int e = (int)(threadIdx.x % 32); isnan(norm) && e < a.k; e += 32)
            atomicAdd(&count[e], 1);
        if (isnan(norm))
            return;
    }
    EACH_EXPERT(e, a.experts)
        key[i] = order_of(x[i]);
    if (a.k > ROUTE_MAX_CHOSEN || !best_k<N>(key, a.k, room, &c)) {
        uint32_t taken = 0;
        EACH_EXPERT(e, a.experts)
            score[e] = x[i];
        __syncwarp();
        for (int j = 0; j < a.k; j++) {
            int e = best_of(score, a.experts, taken);
            taken = mark(taken, e);
            if (threadIdx.x % 32 == 0)
                atomicAdd(&count[e], 1);
        }
        __syncwarp();
    } else if (c.rank < a.k) {
        atomicAdd(&count[c.index], 1); // integers: any order gives the same sum
    }
}

// ---- attributes -----------------------------------------------------------------------------
// `logits`: which operand they are
static inline mr_status loss_prepare(const struct kernel *base, const mr_call *c, uint32_t logits,
                                     loss_args *a, mr_err *err)
{
    const mr_type *x = c->in[logits];
    int64_t chosen = mr_attr_i(c, "k", 1);
    if (x->dim[1] > ROUTE_MAX_EXPERTS || chosen > ROUTE_MAX_EXPERTS)
        return cuda_refuse(base, err, "more than 1024 experts");
    if (x->dim[0] > INT32_MAX / ROUTE_MAX_EXPERTS)
        return cuda_refuse(base, err, "more tokens than 32-bit counters hold");
    a->tokens = (int)x->dim[0];
    a->experts = (int)x->dim[1];
    a->k = (int)chosen;
    a->by_sequence = !strcmp(mr_attr_s(c, "type", "aux"), "seq_aux");
    a->is_sigmoid = !strcmp(mr_attr_s(c, "score", "sigmoid"), "sigmoid");
    a->chunks = (int)cuda_ceil(a->tokens, CHUNK);
    a->slices = (int)cuda_ceil(a->experts, SLICE);
    a->coeff = (float)mr_attr_f(c, "coeff", 0);
    return MR_OK;
}

#endif
