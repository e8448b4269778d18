/* SPDX-License-Identifier: Apache-2.0
 *
 * blend.h - how several data sets become one, and one becomes several: weights and splits,
 * by Megatron's rules and in its arithmetic, so that equal words give equal samples.
 */
#ifndef INDEXED_BLEND_H
#define INDEXED_BLEND_H
#include "mrun/data.h"

enum { BLEND_MAX = 32767, SPLITS = 3 };

/* numpy.sum() of doubles, to the last bit: weights are divided by it, and ties between data
 * sets are decided by that bit. */
double blend_sum(const double *v, uint64_t n);

/* Step k takes the next sample of the data set that lags its share most: the largest
 * weights[i] * max(k, 1) - taken[i], the lowest i of equals. `which` and `sample`: [size]. */
void blend_weighted(const double *weights, uint32_t n, int64_t size, uint16_t *which,
                    int64_t *sample, int64_t *taken);

/* The same with shares sizes[i] / sum, a data set dropping out when it is used up. `which`
 * and `sample`: [sum of sizes]. */
void blend_exhaustive(const int64_t *sizes, uint32_t n, uint16_t *which, int64_t *sample,
                      int64_t *taken);

/* "949,50,1": shares of train, validation and test. Split i owns the documents
 * [bounds[i], bounds[i + 1]) of `documents`. */
mr_status blend_split(const char *text, int64_t documents, int64_t bounds[SPLITS + 1], mr_err *err);

#endif
