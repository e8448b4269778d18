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

enum { RUN = 2048 }; /* numbers at a time */

/* ---- codes ---------------------------------------------------------------------------------- */

static float e4m3(uint8_t x)
{
    uint32_t u = (uint32_t)(x & 0x7f) << 20;
    float v;
    memcpy(&v, &u, sizeof v);
    v *= 0x1p120f; /* the exponent's bias of f32 for e4m3's, subnormals included */
    v = (x & 0x7f) == 0x7f ? NAN : v;
    return x & 0x80 ? -v : v;
}

static void read_e4m3(const uint8_t *row, int64_t c, int64_t n, uint32_t bits, float *out)
{
    (void)bits;
    for (int64_t i = 0; i < n; i++)
        out[i] = e4m3(row[c + i]);
}

static void read_i8(const uint8_t *row, int64_t c, int64_t n, uint32_t bits, float *out)
{
    (void)bits;
    for (int64_t i = 0; i < n; i++)
        out[i] = (int8_t)row[c + i];
}

/* words are little-endian, so a row is one stream of bits, lowest first */
static void read_bits(const uint8_t *row, int64_t c, int64_t n, uint32_t bits, float *out)
{
    const int32_t offset = 1 << (bits - 1), mask = (1 << bits) - 1;
    int64_t i = 0, per = 32 / bits;
    for (; i < n && (c + i) % per; i++)
        out[i] = (float)(((row[(c + i) * bits / 8] >> ((c + i) * bits % 8)) & mask) - offset);
    for (; i + per <= n; i += per) {
        uint32_t w;
        memcpy(&w, row + (c + i) / per * 4, 4);
        if (bits == 4) /* as most folders have it: eight at once */
            for (int k = 0; k < 8; k++)
                out[i + k] = (float)((int32_t)(w >> (4 * k) & 15) - 8);
        else
            for (int64_t k = 0; k < per; k++)
                out[i + k] = (float)((int32_t)(w >> (bits * k) & (uint32_t)mask) - offset);
    }
    for (; i < n; i++)
        out[i] = (float)(((row[(c + i) * bits / 8] >> ((c + i) * bits % 8)) & mask) - offset);
}

static const float e2m1[16] = { 0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0f, -0.5, -1, -1.5, -2, -3, -4, -6 };

static void read_e2m1(const uint8_t *row, int64_t c, int64_t n, uint32_t bits, float *out)
{
    (void)bits;
    for (int64_t i = 0; i < n; i++)
        out[i] = e2m1[row[(c + i) / 2] >> ((c + i) % 2 * 4) & 15];
}

static void read_low(const uint8_t *row, int64_t c, int64_t n, uint32_t bits, float *out)
{
    (void)bits;
    for (int64_t i = 0; i < n; i++)
        out[i] = e2m1[row[c + i] & 15];
}

static void read_high(const uint8_t *row, int64_t c, int64_t n, uint32_t bits, float *out)
{
    (void)bits;
    for (int64_t i = 0; i < n; i++)
        out[i] = e2m1[row[c + i] >> 4];
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

/* i-th element of the tensor of scales */
static float scale_at(const mri_tensor *t, int64_t i)
{
    const char *d = t->type.dtype;
    if (!strcmp(d, "f32"))
        return ((const float *)t->data)[i];
    if (!strcmp(d, "bf16"))
        return mri_bf16_to_f32(((const uint16_t *)t->data)[i]);
    if (!strcmp(d, "f16"))
        return f16(((const uint16_t *)t->data)[i]);
    uint8_t x = ((const uint8_t *)t->data)[i];
    if (!strcmp(d, "f8e4m3"))
        return e4m3(x);
    return x == 255 ? NAN : ldexpf(1, x - 127); /* f8e8m0 */
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
        for (int64_t i = 0; i < n; i++)
            x[i] = mri_bf16_to_f32(mri_f32_to_bf16(x[i]));
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
        float scale = scale_at(s->scale, s->one_scale ? 0 : (m * s->grid[0] + gr) * s->grid[1] + gc);
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
