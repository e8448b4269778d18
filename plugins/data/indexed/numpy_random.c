/* SPDX-License-Identifier: Apache-2.0
 *
 * numpy_random.c - MT19937 after Matsumoto and Nishimura (1998), whose names are kept: the
 * recurrence x[k+N] = x[k+M] ^ (upper(x[k]) | lower(x[k+1])) A, then tempering.
 */
#include "numpy_random.h"

enum { N = 624, M = 397 };

void numpy_random_seed(numpy_random *r, uint32_t seed)
{
    r->key[0] = seed;
    for (uint32_t i = 1; i < N; i++)
        r->key[i] = 1812433253u * (r->key[i - 1] ^ r->key[i - 1] >> 30) + i;
    r->at = N;
}

static void refill(uint32_t *x)
{
    for (int k = 0; k < N; k++) {
        uint32_t y = (x[k] & 0x80000000u) | (x[(k + 1) % N] & 0x7fffffffu);
        x[k] = x[(k + M) % N] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
    }
}

uint32_t numpy_random_next(numpy_random *r)
{
    if (r->at == N) {
        refill(r->key);
        r->at = 0;
    }
    uint32_t y = r->key[r->at++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

/* numpy draws under the smallest mask of ones that covers max until a draw is not above it. */
uint32_t numpy_random_interval(numpy_random *r, uint32_t max)
{
    if (max == 0) /* no draw is spent */
        return 0;
    uint32_t mask = UINT32_MAX >> __builtin_clz(max), x;
    do
        x = numpy_random_next(r) & mask;
    while (x > max);
    return x;
}

void numpy_random_shuffle(numpy_random *r, uint32_t *v, uint64_t n)
{
    for (uint64_t i = n; i-- > 1;) {
        uint32_t j = numpy_random_interval(r, (uint32_t)i), x = v[i];
        v[i] = v[j];
        v[j] = x;
    }
}
