/* SPDX-License-Identifier: Apache-2.0
 *
 * numpy_random.h - numpy's RandomState(seed) as far as Megatron's data order needs it: the
 * Mersenne Twister MT19937 seeded by an integer, and shuffle().
 *
 * Invariant: after equal calls the stream and every shuffled array equal numpy's, whose
 * RandomState is frozen for ever; tests/unit/data holds what numpy itself gave.
 */
#ifndef INDEXED_NUMPY_RANDOM_H
#define INDEXED_NUMPY_RANDOM_H
#include <stdint.h>

typedef struct numpy_random {
    uint32_t key[624], at; /* at: words of key already handed out */
} numpy_random;

void numpy_random_seed(numpy_random *r, uint32_t seed);
uint32_t numpy_random_next(numpy_random *r);
uint32_t numpy_random_interval(numpy_random *r, uint32_t max); /* uniform in [0, max] */
void numpy_random_shuffle(numpy_random *r, uint32_t *v, uint64_t n);

#endif
