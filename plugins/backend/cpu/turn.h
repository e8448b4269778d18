/* SPDX-License-Identifier: Apache-2.0
 *
 * turn.h - rotations by position, for the ops that have them: the cosines and sines of one row,
 * in double and reduced there, so that large positions keep their accuracy, and neighbouring
 * pairs turned by them.
 */
#ifndef MRUN_CPU_TURN_H
#define MRUN_CPU_TURN_H
#include "vec.h"

/* cos and sin of `pos` times each frequency, spread to the layout of the values */
INLINE void turn_angles(const double *freq, int64_t n, int32_t pos, float factor, float sign,
                        int interleaved, float *c, float *s)
{
    for (int64_t i = 0; i < n; i++) {
        double a = pos * freq[i];
        double q = rint(a * 0.63661977236758134); /* quarter turns */
        /* pi/2 in two pieces: q times the first is exact for every 32-bit position */
        float r = (float)((a - q * 1.57079632673412561417e+00) - q * 6.07710050650619224932e-11);
        float r2 = r * r;
        float sn = r + r * r2 * (-1.6666654611e-1f
                                 + r2 * (8.3321608736e-3f - 1.9515295891e-4f * r2));
        float cs = 1.0f - 0.5f * r2
                 + r2 * r2 * (4.166664568298827e-2f + r2 * (-1.388731625493765e-3f
                                                           + 2.443315711809948e-5f * r2));
        int64_t quarter = (int64_t)q & 3;
        float vc = quarter & 1 ? sn : cs, vs = quarter & 1 ? cs : sn;
        if (quarter == 1 || quarter == 2)
            vc = -vc;
        if (quarter & 2)
            vs = -vs;
        vc *= factor;
        vs *= factor * sign;
        if (interleaved) {
            c[2 * i] = c[2 * i + 1] = vc;
            s[2 * i] = -vs;
            s[2 * i + 1] = vs;
        } else {
            c[i] = vc;
            s[i] = vs;
        }
    }
}

/* The same by the C library, rounded once: for so few (rows times n) that it costs nothing. */
enum { TURN_FEW = 1 << 14 };
INLINE void turn_angles_exact(const double *freq, int64_t n, int32_t pos, float factor, float sign,
                              int interleaved, float *c, float *s)
{
    for (int64_t i = 0; i < n; i++) {
        double a = pos * freq[i];
        float vc = (float)(cos(a) * (double)factor), vs = (float)(sin(a) * (double)(factor * sign));
        if (interleaved) {
            c[2 * i] = c[2 * i + 1] = vc;
            s[2 * i] = -vs;
            s[2 * i + 1] = vs;
        } else {
            c[i] = vc;
            s[i] = vs;
        }
    }
}

INLINE vf turn_swap(vf v)
{
#if W == 16
    return __builtin_shuffle(v, (vi){ 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14 });
#elif W == 8
    return __builtin_shuffle(v, (vi){ 1, 0, 3, 2, 5, 4, 7, 6 });
#else
    return __builtin_shuffle(v, (vi){ 1, 0, 3, 2 });
#endif
}

/* n2 values in neighbouring pairs */
INLINE void turn_pairs(arr x, arr y, int64_t n2, const float *c, const float *s)
{
    arr ca = { (void *)(uintptr_t)c, 0 }, sa = { (void *)(uintptr_t)s, 0 };
    for (int64_t i = 0; i < n2; i += W) {
        int l = LANES(i, n2);
        vf v = ld(x, i, l);
        st(y, i, l, v * ld(ca, i, l) + turn_swap(v) * ld(sa, i, l));
    }
}

#endif
