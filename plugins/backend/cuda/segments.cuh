// SPDX-License-Identifier: Apache-2.0
//
// segments.cuh - segments of tokens: sequences, or all tokens as one. Tokens of equal seq_start
// that stand together are a sequence. Tokens are looked at in chunks of 64, of which a bit mask
// tells those that open a segment; the first and the last of each chunk lead to a token's segment
// in few steps, however long it is.

#ifndef MRUN_CUDA_SEGMENTS_CUH
#define MRUN_CUDA_SEGMENTS_CUH
#include "route.cuh"

enum { CHUNK = 64 };

struct segments { // by value in a launch
    const int32_t *seq_start;
    int tokens, chunks, by_sequence;
};

DEV bool opens_segment(const segments &s, int t)
{
    return t == 0 || (s.by_sequence && s.seq_start[t] != s.seq_start[t - 1]);
}

// a warp: bit i is set if token i of chunk c opens a segment
DEV uint64_t open_tokens(const segments &s, int c)
{
    uint64_t open = 0;
#pragma unroll
    for (int w = 0; w < CHUNK / 32; w++) {
        int t = c * CHUNK + w * 32 + (int)(threadIdx.x % 32);
        bool opens = t < s.tokens && opens_segment(s, t);
        open |= (uint64_t)__ballot_sync(~0u, opens) << 32 * w;
    }
    return open;
}

DEV int2 opener_ends(uint64_t open, int c) // the first and the last of them
{
    return open ? int2{ c * CHUNK + __ffsll((int64_t)open) - 1,
                        c * CHUNK + 63 - __clzll((int64_t)open) }
                : int2{ -1, -1 };
}

// a warp a chunk: the first and the last token that opens a segment, or -1
static __global__ void __launch_bounds__(32 * ROUTE_WARPS)
    find_openers(const segments s, int2 *openers)
{
    int c = (int)blockIdx.x * ROUTE_WARPS + (int)threadIdx.x / 32;
    if (c >= s.chunks)
        return;
    uint64_t open = open_tokens(s, c);
    if (threadIdx.x % 32 == 0)
        openers[c] = opener_ends(open, c);
}

// Token t's segment: its first token and its length. In the token's chunk, else in the nearest one
// with an opener, 32 chunks at a time.
DEV int2 segment_of(const segments &s, const int2 *openers, int t)
{
    int c = t / CHUNK, at = t % CHUNK, lane = threadIdx.x % 32, begin = -1, end = -1;
    uint64_t open = open_tokens(s, c), upto = ~(uint64_t)0 >> (63 - at);
    if (open & upto)
        begin = c * CHUNK + 63 - __clzll((int64_t)(open & upto));
    for (int d = c - 1; begin < 0; d -= 32) {
        int y = d - lane >= 0 ? openers[d - lane].y : -1;
        unsigned found = __ballot_sync(~0u, y >= 0); // chunk 0 has one
        begin = found ? __shfl_sync(~0u, y, __ffs(found) - 1) : -1;
    }
    if (open & ~upto)
        end = c * CHUNK + __ffsll((int64_t)(open & ~upto)) - 1;
    for (int d = c + 1; end < 0; d += 32) {
        int x = d + lane < s.chunks ? openers[d + lane].x : s.tokens;
        unsigned found = __ballot_sync(~0u, x >= 0);
        end = found ? __shfl_sync(~0u, x, __ffs(found) - 1) : -1;
    }
    return int2{ begin, end - begin };
}

#endif
