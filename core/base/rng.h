/* SPDX-License-Identifier: Apache-2.0
 *
 * rng.h - counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random
 * numbers: as easy as 1, 2, 3"). There is no state to advance: element i of a stream is a pure
 * function of (seed, stream, i), so a draw is the same in any order, on any number of threads
 * and on any mesh. The seed is Philox's key; the stream is the upper half of its counter, so
 * that two streams of one seed never share a block.
 *
 * A block of 128 bits holds elements 2b and 2b+1. The normal deviates are made with
 * + - * / and sqrt alone, which IEEE 754 rounds exactly: equal bits on every machine, where
 * log, sin and cos of two C libraries may differ.
 */
#ifndef MRI_RNG_H
#define MRI_RNG_H
#include <stdint.h>

typedef struct mri_rng {
    uint64_t seed, stream;
} mri_rng;

/* the stream of a name: "model.layers.3.mlp.gate" */
mri_rng mri_rng_named(uint64_t seed, const char *name);

uint64_t mri_rng_bits(mri_rng r, uint64_t i);  /* 64 random bits                     */
double mri_rng_uniform(mri_rng r, uint64_t i); /* in [0, 1): a multiple of 2^-53     */
double mri_rng_normal(mri_rng r, uint64_t i);  /* mean 0, deviation 1; |x| below 8.6 */

/* out[j] = scale * normal(first + j), rounded once; a block is drawn once, not twice */
void mri_rng_normals(mri_rng r, uint64_t first, uint64_t n, double scale, float *out);

/* the cipher itself: ten rounds over a 128-bit counter with a 64-bit key */
void mri_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

#endif
