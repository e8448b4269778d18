// SPDX-License-Identifier: Apache-2.0
//
// route.cuh - what the router and its losses share: a warp has a token. Lane l owns the experts l,
// l + 32 ..., of which 32 fit its mask of taken ones: 1024 experts at most, and 32 chosen, one a
// lane. Scores lie in shared memory.

#ifndef MRUN_CUDA_ROUTE_CUH
#define MRUN_CUDA_ROUTE_CUH
#include "dev.cuh"

enum { ROUTE_MAX_EXPERTS = 1024, ROUTE_MAX_CHOSEN = 32, ROUTE_WARPS = 4 };

DEV int warp_min_int(int x)
{
    for (int d = 16; d; d >>= 1)
        x = min(x, __shfl_xor_sync(~0u, x, d));
    return x;
}

// The largest score not taken, ties to the lower index; score[base .. base + n), bit i of `taken`
// is this lane's element 32 i + lane. As the definition's loop does it: NaN is never larger, but
// is kept if it comes first.
DEV int best_of(const float *score, int n, uint32_t taken)
{
    int lane = threadIdx.x % 32, first = n, best = n;
    float top = -INFINITY;
    for (int e = lane, i = 0; e < n; e += 32, i++) {
        if (taken >> i & 1)
            continue;
        first = min(first, e);
        if (score[e] > top || (best == n && score[e] == -INFINITY)) {
            top = score[e];
            best = e;
        }
    }
    first = warp_min_int(first);
    for (int d = 16; d; d >>= 1) {
        float t = __shfl_xor_sync(~0u, top, d);
        int b = __shfl_xor_sync(~0u, best, d);
        if (b < n && (best == n || t > top || (t == top && b < best))) {
            top = t;
            best = b;
        }
    }
    return best == n || isnan(score[first]) ? first : best;
}

DEV uint32_t mark(uint32_t taken, int e) // e is taken now
{
    return threadIdx.x % 32 == e % 32 ? taken | 1u << (e / 32) : taken;
}

// softmax over n values: the logarithm of the sum of exponentials. NaN in, NaN out.
DEV float row_lse(const float *x, int n)
{
    float m = -INFINITY, sum = 0;
    for (int e = threadIdx.x % 32; e < n; e += 32)
        m = fmaxf(m, x[e]);
    m = warp_max(m);
    for (int e = threadIdx.x % 32; e < n; e += 32)
        sum += expf(x[e] - m);
    return m + logf(warp_sum(sum));
}

#endif
