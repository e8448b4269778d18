/* SPDX-License-Identifier: Apache-2.0
 *
 * zigzag.h - how the tokens of a sequence lie over N ranks that share it: cut into 2N equal pieces,
 * of which rank n has the n-th and the n-th from the end, so that all ranks see as many keys.
 */
#ifndef MRI_ZIGZAG_H
#define MRI_ZIGZAG_H
#include <stdint.h>

/* the row of the whole micro-batch, sequences of `seq` end to end, that row i of rank n is */
static inline int64_t mri_zigzag_row(int64_t i, int64_t seq, int64_t ranks, int64_t n)
{
    int64_t piece = seq / (2 * ranks), in = i % (2 * piece);
    int64_t at = in < piece ? n * piece + in : (2 * ranks - 1 - n) * piece + in - piece;
    return i / (2 * piece) * seq + at;
}

/* how many rows of rank n lie before row `row` of the whole */
static inline int64_t mri_zigzag_before(int64_t row, int64_t seq, int64_t ranks, int64_t n)
{
    int64_t piece = seq / (2 * ranks), in = row % seq, sum = row / seq * 2 * piece;
    int64_t begins[2] = { n * piece, (2 * ranks - 1 - n) * piece };
    for (int i = 0; i < 2; i++)
        sum += in <= begins[i] ? 0 : in - begins[i] < piece ? in - begins[i] : piece;
    return sum;
}

#endif
