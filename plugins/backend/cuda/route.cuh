// SPDX-License-Identifier: Apache-2.0
//
// route.cuh - what the router and its losses share: a warp has a token, a lane the experts lane,
// lane + 32 .., N of them in registers; 1024 experts at most, and 32 chosen. The K best are found
// without K passes over the row: the K-th largest of the lanes' own maxima bounds the K-th best
// from below; what is not below that bound, mostly little more than K values, moves to a lane each
// and is ranked by counting. Scores are compared as integers in the same order.

#ifndef MRUN_CUDA_ROUTE_CUH
#define MRUN_CUDA_ROUTE_CUH
#include "dev.cuh"

enum { ROUTE_MAX_EXPERTS = 1024, ROUTE_MAX_CHOSEN = 32, ROUTE_WARPS = 4, ROUTE_ROOM = 64 };

// Runs STATEMENT with N: how many experts a lane has.
#define WITH_N(experts, ...) \
    do { \
        if ((experts) <= 32) { \
            constexpr int N = 1; \
            __VA_ARGS__; \
        } else if ((experts) <= 64) { \
            constexpr int N = 2; \
            __VA_ARGS__; \
        } else if ((experts) <= 128) { \
            constexpr int N = 4; \
            __VA_ARGS__; \
        } else if ((experts) <= 256) { \
            constexpr int N = 8; \
            __VA_ARGS__; \
        } else if ((experts) <= 384) { \
            constexpr int N = 12; \
            __VA_ARGS__; \
        } else { \
            constexpr int N = 32; \
            __VA_ARGS__; \
        } \
    } while (0)

// for each expert e of this lane, its number i; a statement that an else may follow
#define EACH_EXPERT(e, experts) \
    _Pragma("unroll") for (int i = 0; i < N; i++) \
        if (int e = i * 32 + (int)(threadIdx.x % 32); e >= (experts)) { \
        } else

// token t's row of logits; lanes without an expert get -inf
template <int N> DEV void load_row(arr logits, int64_t t, int experts, float x[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        x[i] = -INFINITY;
    if (logits.kind == CUDA_BF16)
        EACH_EXPERT(e, experts)
            x[i] = ld((const bf16 *)logits.p, t * experts + e);
    else
        EACH_EXPERT(e, experts)
            x[i] = ld((const float *)logits.p, t * experts + e);
}

// the logarithm of the sum of exponentials of a row. NaN in, NaN out.
template <int N> DEV float row_lse(const float x[N], int experts)
{
    float m = -INFINITY, sum = 0;
    EACH_EXPERT(e, experts)
        m = fmaxf(m, x[i]);
    m = warp_max(m);
    EACH_EXPERT(e, experts)
        sum += expf(x[i] - m);
    return m + logf(warp_sum(sum));
}

// by * the sum of n terms, in a fixed order; one block
static __global__ void __launch_bounds__(1024)
    sum_terms(const double *term, float *loss, int n, double by)
{
    __shared__ double room[32];
    double sum = 0;
#pragma unroll 4
    for (int i = threadIdx.x; i < n; i += 1024)
        sum += term[i];
    sum = block_sum_double(sum, room);
    if (threadIdx.x == 0)
        *loss = (float)(by * sum);
}

// ---- the K best ---------------------------------------------------------------------------
// A number as an unsigned one in the same order; -0 is 0, and 0 stands for none. Not for NaN.
DEV uint32_t order_of(float x)
{
    uint32_t bits = __float_as_uint(x + 0.0f);
    return bits ^ ((uint32_t)((int32_t)bits >> 31) | 0x80000000u);
}

// what a lane has of the K best: expert `index`, which is number `rank` of them; rank >= K: none
struct choice {
    int index, rank;
};

template <int N> DEV choice best_one(const uint32_t key[N])
{
    uint32_t own = 0;
    int index = INT32_MAX, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < N; i++)
        own = max(own, key[i]);
    uint32_t top = __reduce_max_sync(~0u, own);
#pragma unroll
    for (int i = N - 1; i >= 0; i--)
        index = key[i] == top ? i * 32 + lane : index;
    return choice{ (int)__reduce_min_sync(~0u, (unsigned)index), (int)(threadIdx.x % 32) };
}

// The K best of the row, ties to the lower expert. `room`: ROUTE_ROOM words of this warp. False:
// too many candidates, as equal scores make them.
template <int N> DEV bool best_k(const uint32_t key[N], int k, uint32_t *room, choice *c)
{
    int lane = threadIdx.x % 32, n = 0;
    if (k == 1) {
        *c = best_one<N>(key);
        return true;
    }
    uint32_t own = 0, bound = 1;
    if (N > 1) {
#pragma unroll
        for (int i = 0; i < N; i++)
            own = max(own, key[i]);
        for (int j = 0; j < k; j++) {
            bound = __reduce_max_sync(~0u, own);
            own = own == bound ? 0 : own;
        }
        bound = max(bound, 1u);
    }
#pragma unroll
    for (int i = 0; i < N; i++) { // candidates in the order of the experts
        bool high = key[i] >= bound;
        unsigned all = __ballot_sync(~0u, high);
        int at = n + __popc(all & ((1u << lane) - 1));
        if (high && at < 32) {
            room[at] = key[i];
            room[32 + at] = (uint32_t)(i * 32 + lane);
        }
        n += __popc(all);
    }
    __syncwarp();
    uint32_t mine = lane < n ? room[lane] : 0;
    *c = choice{ lane < n ? (int)room[32 + lane] : 0, lane < n ? 0 : 32 };
    for (int j = 0; j < n && j < 32; j++) {
        uint32_t other = __shfl_sync(~0u, mine, j);
        c->rank += other > mine || (other == mine && j < lane);
    }
    __syncwarp(); // the room is read
    return n <= 32;
}

// ---- the same, one after the other, from a row in shared memory --------------------------------
DEV int warp_min_int(int x)
{
    for (int d = 16; d; d >>= 1)
        x = min(x, __shfl_xor_sync(~0u, x, d));
    return x;
}

// The largest score not taken, ties to the lower index; bit i of `taken` is this lane's element
// 32 i + lane. As the definition's loop does it: NaN is never larger, but is kept if it comes
// first.
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

DEV choice best_k_slowly(const float *score, int n, int k, uint32_t taken)
{
    choice c = { 0, (int)(threadIdx.x % 32) };
    for (int j = 0; j < k; j++) {
        int e = best_of(score, n, taken);
        taken = mark(taken, e);
        c.index = c.rank == j ? e : c.index;
    }
    return c;
}

#endif
