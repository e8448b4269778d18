/* SPDX-License-Identifier: Apache-2.0
 *
 * turned.c - see turned.h. Tiles: a few rows of a tensor are read where they lie together, and
 * written where theirs do, so that neither side is walked with a stride a number at a time.
 */
#include "turned.h"
#include "params.h"

enum { TILE = 16, ACROSS = 1024 };

/* elements [first, first + n) of a tensor, plain or quantised */
static mr_status numbers(const mri_stored *s, int64_t first, int64_t n, float *out, mr_err *err)
{
    uint64_t bytes;
    if (s->rule) {
        mri_stored_read(s, first, n, out);
        return 0;
    }
    return mri_convert(out, "f32", mri_stored_bytes(s, first, n, &bytes), s->type.dtype,
                       (uint64_t)n, err);
}

/* Of one part: its rows [from, to) at the columns [c, c + n), to out[column][row], rows of ld. */
static mr_status turn_tile(const mri_stored *s, int64_t from, int64_t to, int64_t c, int64_t n,
                           float *out, int64_t ld, mr_err *err)
{
    float tile[TILE][ACROSS];
    mr_status st = 0;
    for (int64_t r = from; r < to && !st; r++)
        st = numbers(s, r * s->type.dim[1] + c, n, tile[r - from], err);
    for (int64_t k = 0; k < n && !st; k++)
        for (int64_t r = from; r < to; r++)
            out[k * ld + r - from] = tile[r - from][k];
    return st;
}

mr_status mri_turned_read(const mri_turned *m, int64_t first, int64_t n, float *out, mr_err *err)
{
    int64_t row = first / m->cols, left = first % m->cols; /* of the matrix */
    int64_t high = n / m->cols, right = left + n, at = 0;  /* at: first column of a part */
    mr_status st = 0;
    if (high)
        right = m->cols;
    else
        high = 1;
    for (uint32_t p = 0; p < m->n && !st; p++) {
        const mri_stored *s = &m->part[p];
        int64_t end = at + s->type.dim[0];
        int64_t from = left > at ? left : at, to = right < end ? right : end, k;
        for (int64_t x = from; x < to && !st; x += TILE)
            for (int64_t y = 0; y < high && !st; y += k) {
                k = high - y < ACROSS ? high - y : ACROSS;
                st = turn_tile(s, x - at, (to - x < TILE ? to : x + TILE) - at, row + y, k,
                               out + y * (right - left) + x - left, right - left, err);
            }
        at = end;
    }
    return st;
}

void mri_turn(void *out, const void *in, int64_t rows, int64_t cols, int64_t ld, size_t width)
{
    for (int64_t r0 = 0; r0 < rows; r0 += TILE)
        for (int64_t c = 0; c < cols; c++)
            for (int64_t r = r0; r < rows && r < r0 + TILE; r++)
                memcpy((char *)out + (size_t)(r * cols + c) * width,
                       (const char *)in + (size_t)(c * ld + r) * width, width);
}
