/* SPDX-License-Identifier: Apache-2.0
 *
 * ref.h - element access for reference loops: read any float dtype as double, compute in
 * double, round once on store. Plain on purpose; speed lives in the backends.
 */
#ifndef MRI_REF_H
#define MRI_REF_H
#include "f8.h"
#include "mrun/op.h"

static inline float mri_bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline uint16_t mri_f32_to_bf16(float f) /* to nearest, ties to even; NaN stays NaN */
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40);
    u += 0x7fffu + ((u >> 16) & 1);
    return (uint16_t)(u >> 16);
}

/* A master weight in two halves of 16 bits: the bf16 weight, rounded to nearest with ties away
 * from zero, and what it leaves, so that master bits = (weight << 16) + rest. Every number comes
 * back to the bit. (With ties to even the rest of a tie, +2^15, would not fit.) NaN stays NaN. */
static inline float mri_join(uint16_t weight, int16_t rest)
{
    uint32_t u = ((uint32_t)weight << 16) + (uint32_t)(int32_t)rest;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline void mri_split(float master, uint16_t *weight, int16_t *rest)
{
    uint32_t u;
    memcpy(&u, &master, 4);
    *weight = (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? u >> 16 | 0x40 : (u + 0x8000u) >> 16);
    *rest = (int16_t)(uint16_t)u;
}

/* A view for reading and writing elements of one operand. */
typedef struct mri_view {
    void *p;
    char kind; /* 'f' f32, 'd' f64, 'b' bf16, 'i' i32, 'l' i64, 's' i16, 'u' u8, '3' f8e4m3,
                '2' f8e5m2; 0: absent */
} mri_view;

static inline mri_view mri_at(const mr_type *t, const mr_buf *b)
{
    mri_view v = { NULL, 0 };
    if (!t || !b->data)
        return v;
    v.p = b->data;
    v.kind = mr_is(t, "f32") ? 'f' : mr_is(t, "f64") ? 'd' : mr_is(t, "bf16") ? 'b'
           : mr_is(t, "i32") ? 'i' : mr_is(t, "i64") ? 'l' : mr_is(t, "i16") ? 's'
           : mr_is(t, "f8e4m3") ? '3' : mr_is(t, "f8e5m2") ? '2' : 'u';
    return v;
}

static inline double mri_get(mri_view v, int64_t i)
{
    switch (v.kind) {
    case 'f': return ((const float *)v.p)[i];
    case 'd': return ((const double *)v.p)[i];
    case 'b': return mri_bf16_to_f32(((const uint16_t *)v.p)[i]);
    case 'i': return ((const int32_t *)v.p)[i];
    case 'l': return (double)((const int64_t *)v.p)[i];
    case 's': return ((const int16_t *)v.p)[i];
    case 'u': return ((const uint8_t *)v.p)[i];
    case '3': return mri_e4m3_to_f32(((const uint8_t *)v.p)[i]);
    case '2': return mri_e5m2_to_f32(((const uint8_t *)v.p)[i]);
    }
    return 0;
}

static inline void mri_put(mri_view v, int64_t i, double x)
{
    switch (v.kind) {
    case 'f': ((float *)v.p)[i] = (float)x; break;
    case 'd': ((double *)v.p)[i] = x; break;
    case 'b': ((uint16_t *)v.p)[i] = mri_f32_to_bf16((float)x); break;
    case 'i': ((int32_t *)v.p)[i] = (int32_t)x; break;
    case 'l': ((int64_t *)v.p)[i] = (int64_t)x; break;
    case 's': ((int16_t *)v.p)[i] = (int16_t)x; break;
    case 'u': ((uint8_t *)v.p)[i] = (uint8_t)x; break;
    case '3': ((uint8_t *)v.p)[i] = mri_f32_to_e4m3((float)x); break;
    case '2': ((uint8_t *)v.p)[i] = mri_f32_to_e5m2((float)x); break;
    }
}

static inline void mri_acc(mri_view v, int64_t i, double x) /* += */
{
    mri_put(v, i, mri_get(v, i) + x);
}

#endif
