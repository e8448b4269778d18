/* SPDX-License-Identifier: Apache-2.0
 *
 * order.h - a keyed shuffle of [0, n) without an array: the place of item i is computed, so
 * any sample of any epoch is found in constant time and resuming stores nothing.
 *
 * Invariant: for a fixed key, order_place() maps [0, n) one to one onto [0, n). A Feistel
 * network permutes the smallest power of two that holds n (each round changes one half by a
 * function of the other, hence is undone by repeating it); a place outside [0, n) is walked
 * on along its cycle until it falls inside (Black and Rogaway 2002), under 2 steps on average.
 */
#ifndef TEXT_ORDER_H
#define TEXT_ORDER_H
#include <stdint.h>

/* the finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit depends on every bit */
static inline uint64_t order_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static inline uint64_t order_key(int64_t seed, int64_t epoch)
{
    return order_mix(order_mix((uint64_t)seed) ^ (uint64_t)epoch);
}

static inline int64_t order_place(uint64_t key, int64_t n, int64_t i)
{
    int bits = n > 1 ? 64 - __builtin_clzll((uint64_t)n - 1) : 0;
    int low = bits / 2, high = bits - low;
    uint64_t low_mask = ((uint64_t)1 << low) - 1, high_mask = ((uint64_t)1 << high) - 1;
    uint64_t x = (uint64_t)i;
    do {
        uint64_t l = x & low_mask, h = x >> low;
        for (uint64_t round = 0; round < 4; round++) {
            h ^= order_mix(key ^ (2 * round) << 56 ^ l) & high_mask;
            l ^= order_mix(key ^ (2 * round + 1) << 56 ^ h) & low_mask;
        }
        x = h << low | l;
    } while (x >= (uint64_t)n);
    return (int64_t)x;
}

#endif
