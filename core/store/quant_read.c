/* SPDX-License-Identifier: Apache-2.0
 *
 * quant_read.c - codes and scales to numbers; see quant.h for what was checked before.
 *
 * A run of a row under one scale is unpacked to floats, then multiplied in place: at most 8 KiB,
 * so both passes stay in the first cache. The product of a code (at most 8 bits of significand)
 * and a bf16 or f16 scale is exact in f32, so rounding it to the scale's type afterwards is one
 * rounding, as the library's own product in that type is.
 */
#include "core/ops/ref.h"
#include "quant.h"
#include <math.h>
#include <pthread.h>

enum { RUN = 2048 }; /* numbers at a time */

/* ---- codes ---------------------------------------------------------------------------------- */

/* What a byte of codes stands for: one number, or two. A look-up a byte is as fast as the words
 * can be stored. */
static struct {
    float e4m3[256], e2m1[256][2], int4[256][2];
} table;

static float e4m3(uint8_t x)
{
    int e = x >> 3 & 15, m = x & 7;
    float v = e == 15 && m == 7 ? NAN : ldexpf((float)(e ? 8 + m : m), (e ? e : 1) - 10);
    return x & 0x80 ? -v : v;
}

static void make_tables(void)
{
    static const float e2m1[16] = { 0,     0.5,  1,  1.5,  2,  3,  4,  6,
                                    -0.0f, -0.5, -1, -1.5, -2, -3, -4, -6 };
    for (int x = 0; x < 256; x++) {
        table.e4m3[x] = e4m3((uint8_t)x);
        for (int half = 0; half < 2; half++) {
            table.e2m1[x][half] = e2m1[x >> (4 * half) & 15];
            table.int4[x][half] = (float)((x >> (4 * half) & 15) - 8);
        }
    }
}

void mri_quant_tables(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_tables);
}

static void read_e4m3(const uint8_t *row, int64_t c, int64_t n, uint32_t bits, float *out)
{
    (void)bits;
    for (int64_t i = 0; i < n; i++)
        out[i] = table.e4m3[row[c + i]];
}

static void read_i8(const uint8_t *row, int64_t c, int64_t n, uint32_t bits, float *out)
{
    (void)bits;
    for (int64_t i = 0; i < n; i++)
        out[i] = (int8_t)row[c + i];
}

/* two codes a byte, the low half first */
static void read_pairs(const uint8_t *row, int64_t c, int64_t n, const float pair[256][2],
                       float *out)
{
    int64_t i = 0;
    if (n && c % 2)
        out[i++] = pair[row[c / 2]][1];
    for (; i + 2 <= n; i += 2)
        memcpy(out + i, pair[row[(c + i) / 2]], 2 * sizeof *out);
    if (i < n)
        out[i] = pair[row[(c + i) / 2]][0];
}

static void read_e2m1(const uint8_t *row, int64_t c, int64_t n, uint32_t bits, float *out)
{
    (void)bits;
    read_pairs(row, c, n, table.e2m1, out);
}

static void read_low(const uint8_t *row, int64_t c, int64_t n, uint32_t bits, float *out)
{
    (void)bits;
    for (int64_t i = 0; i < n; i++)
        out[i] = table.e2m1[row[c + i]][0];
}

static void read_high(const uint8_t *row, int64_t c, int64_t n, uint32_t bits, float *out)
{
    (void)bits;
    for (int64_t i = 0; i < n; i++)
        out[i] = table.e2m1[row[c + i]][1];
}

/* words are little-endian, so a row is one stream of bits, lowest first */
static void read_bits(const uint8_t *row, int64_t c, int64_t n, uint32_t bits, float *out)
{
    const int32_t offset = 1 << (bits - 1), mask = (1 << bits) - 1;
    if (bits == 4) {
        read_pairs(row, c, n, table.int4, out);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)(((row[(c + i) * bits / 8] >> ((c + i) * bits % 8)) & mask) - offset);
}

static void (*const readers[])(const uint8_t *, int64_t, int64_t, uint32_t, float *) = {
    [MRI_CODES_E4M3] = read_e4m3,
    [MRI_CODES_I8] = read_i8,
    [MRI_CODES_BITS] = read_bits,
    [MRI_CODES_E2M1] = read_e2m1,
    [MRI_CODES_E2M1_ROWS] = read_low, /* of even rows */
};

/* ---- scales --------------------------------------------------------------------------------- */

static float f16(uint16_t h)
{
    int e = h >> 10 & 31, m = h & 1023;
    float x = e == 31 ? (m ? NAN : INFINITY) : e ? ldexpf((float)(1024 + m), e - 25)
                                                 : ldexpf((float)m, -24);
    return h >> 15 ? -x : x;
}

/* to the nearest f16, ties to even */
static float round_f16(float x)
{
    uint32_t u;
    float a = fabsf(x);
    if (!(a >= 0x1p-14f))
        return isnan(x) ? x : copysignf(rintf(a * 0x1p24f) * 0x1p-24f, x);
    memcpy(&u, &a, sizeof u);
    u = (u + 0xfff + (u >> 13 & 1)) & ~0x1fffu;
    memcpy(&a, &u, sizeof a);
    return copysignf(a > 65504 ? INFINITY : a, x);
}

/* i-th element of the tensor of scales; dtypes differ in their first letters or their last */
static float scale_at(const mri_tensor *t, int64_t i)
{
    const char *d = t->type.dtype;
    uint8_t x;
    switch (d[0] == 'b' ? 'b' : d[1]) {
    case 'b': return mri_bf16_to_f32(((const uint16_t *)t->data)[i]);
    case '3': return ((const float *)t->data)[i];
    case '1': return f16(((const uint16_t *)t->data)[i]);
    default:
        x = ((const uint8_t *)t->data)[i];
        return d[3] == '4' ? table.e4m3[x] : x == 255 ? NAN : ldexpf(1, x - 127); /* else e8m0 */
    }
}

/* zero point beside the scale in row r, column c of the grid of matrix m */
static float zero_at(const mri_stored *s, int64_t m, int64_t r, int64_t c)
{
    uint32_t bits = s->rule->bits;
    if (!s->zero_row_bytes)
        return ((const int8_t *)s->zero->data)[s->one_scale ? 0 : (m * s->grid[0] + r) *
                                                                          s->grid[1] + c];
    int64_t per = 32 / bits, words = s->grid[0] / per + (s->grid[0] % per != 0);
    const uint32_t *w = (const uint32_t *)s->zero->data + (m * words + r / per) * s->grid[1] + c;
    uint32_t q = *w >> (r % per * bits) & ((1u << bits) - 1);
    return (float)((int32_t)q - (1 << (bits - 1)));
}

static void round_to(float *x, int64_t n, const char *dtype)
{
    if (!strcmp(dtype, "bf16"))
        for (int64_t i = 0; i < n; i++) { /* of products: a NaN keeps a bit that stays */
            uint32_t u;
            memcpy(&u, &x[i], sizeof u);
            uint32_t up = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000u;
            u = (u & 0x7fffffffu) > 0x7f800000u ? u : up;
            memcpy(&x[i], &u, sizeof u);
        }
    else if (!strcmp(dtype, "f16"))
        for (int64_t i = 0; i < n; i++)
            x[i] = round_f16(x[i]);
}

/* ---- rows ----------------------------------------------------------------------------------- */

/* the row of data that holds row r of all matrices' */
static int64_t data_row(const mri_stored *s, int64_t r)
{
    return s->rule->format->codes == MRI_CODES_E2M1_ROWS ? r / 2 : r;
}

/* columns [c, c + n) of row r of matrix m, at most RUN of them */
static void read_run(const mri_stored *s, int64_t m, int64_t r, int64_t c, int64_t n, float *out)
{
    const mri_quant_format *f = s->rule->format;
    bool odd = f->codes == MRI_CODES_E2M1_ROWS && r % 2;
    const uint8_t *row =
        (const uint8_t *)s->data->data + data_row(s, m * s->rows + r) * s->row_bytes;
    (odd ? read_high : readers[f->codes])(row, c, n, s->rule->bits, out);
    for (int64_t i = 0; i < n;) {
        int64_t gr = r / s->block[0], gc = (c + i) / s->block[1];
        int64_t end = (gc + 1) * s->block[1] - c;
        end = end < n ? end : n;
        int64_t at = s->one_scale ? 0 : (m * s->grid[0] + gr) * s->grid[1] + gc;
        float scale = scale_at(s->scale, at);
        if (f->global)
            scale = f->divide ? scale / s->global : scale * s->global;
        float zero = s->zero ? zero_at(s, m, gr, gc) : 0;
        for (; i < end; i++)
            out[i] = (out[i] - zero) * scale;
    }
    round_to(out, n, f->result ? f->result : s->scale->type.dtype);
}

void mri_stored_read(const mri_stored *s, int64_t first, int64_t n, float *out)
{
    while (n > 0) {
        int64_t row = first / s->cols, c = first % s->cols, k = s->cols - c;
        k = k < n ? k : n;
        k = k < RUN ? k : RUN;
        read_run(s, row / s->rows, row % s->rows, c, k, out);
        first += k;
        out += k;
        n -= k;
    }
}

const uint8_t *mri_stored_bytes(const mri_stored *s, int64_t first, int64_t n, uint64_t *bytes)
{
    const uint8_t *p = s->data->data;
    uint64_t width = s->rule ? 0 : mr_dtype_bytes(s->type.dtype);
    if (!s->rule) {
        *bytes = (uint64_t)n * width;
        return p + (uint64_t)first * width;
    }
    int64_t from = data_row(s, first / s->cols);
    int64_t to = n ? data_row(s, (first + n - 1) / s->cols) + 1 : from;
    *bytes = (uint64_t)(to - from) * (uint64_t)s->row_bytes;
    return p + from * s->row_bytes;
}
