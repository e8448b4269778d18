/* SPDX-License-Identifier: Apache-2.0
 *
 * f8.h - the two 8-bit floats of Micikevicius et al. 2022 (arXiv:2209.05433), to and from f32:
 * e4m3 (4 bits of exponent, 3 of mantissa; no infinity, 448 is the largest) and e5m2 (as IEEE's
 * binary16 cut short; 57344). Rounded to nearest, ties to even, saturating as the GPU's
 * conversions do: what is larger, infinity too, becomes the largest number; NaN stays NaN.
 */
#ifndef MRI_F8_H
#define MRI_F8_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#define MRI_E4M3_MAX 448.0f
#define MRI_E5M2_MAX 57344.0f

/* mantissa: its bits; bias: of the exponent; most: the largest number; nan: its code */
static inline uint8_t mri_to_f8(float x, int mantissa, int bias, float most, uint8_t nan)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    uint8_t sign = (uint8_t)(u >> 24 & 0x80);
    float a = fabsf(x);
    if (isnan(x))
        return sign | nan;
    if (a > most)
        a = most;
    int e;
    (void)frexpf(a, &e); /* a = m 2^e, m in [1/2, 1) */
    int at = e - 1 < 1 - bias ? 1 - bias : e - 1;       /* exponent of the unit: subnormals share */
    float q = nearbyintf(ldexpf(a, mantissa - at));     /* in units of the last place             */
    uint32_t code = a == 0 ? 0 : (uint32_t)(at + bias - 1) << mantissa;
    return sign | (uint8_t)(a == 0 ? 0 : code + (uint32_t)q); /* a carry raises the exponent */
}

static inline float mri_from_f8(uint8_t c, int mantissa, int bias)
{
    int e = c >> mantissa & ((1 << (7 - mantissa)) - 1), m = c & ((1 << mantissa) - 1);
    float a = e ? ldexpf((float)(m | 1 << mantissa), e - bias - mantissa)
                : ldexpf((float)m, 1 - bias - mantissa);
    return c & 0x80 ? -a : a;
}

static inline uint8_t mri_f32_to_e4m3(float x)
{
    return mri_to_f8(x, 3, 7, MRI_E4M3_MAX, 0x7f);
}

static inline float mri_e4m3_to_f32(uint8_t c)
{
    return (c & 0x7f) == 0x7f ? NAN : mri_from_f8(c, 3, 7);
}

static inline uint8_t mri_f32_to_e5m2(float x)
{
    return mri_to_f8(x, 2, 15, MRI_E5M2_MAX, 0x7f);
}

static inline float mri_e5m2_to_f32(uint8_t c)
{
    if ((c & 0x7c) == 0x7c)
        return c & 3 ? NAN : c & 0x80 ? -INFINITY : INFINITY;
    return mri_from_f8(c, 2, 15);
}

#endif
