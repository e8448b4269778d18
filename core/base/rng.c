/* SPDX-License-Identifier: Apache-2.0
 * rng.c - see rng.h. */
#include "rng.h"
#include "base.h"
#include <math.h>
#include <string.h>

void mri_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];

    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0;
        uint64_t b = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u; /* the golden ratio   */
        k1 += 0xBB67AE85u; /* the square root of 3, minus 1 */
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

mri_rng mri_rng_named(uint64_t seed, const char *name)
{
    return (mri_rng){ seed, mri_hash_str(0, name) };
}

/* 64-bit words of elements 2b and 2b+1 */
static void block(mri_rng r, uint64_t b, uint64_t out[2])
{
    const uint32_t key[2] = { (uint32_t)r.seed, (uint32_t)(r.seed >> 32) };
    const uint32_t counter[4] = { (uint32_t)b, (uint32_t)(b >> 32), (uint32_t)r.stream,
                                  (uint32_t)(r.stream >> 32) };
    uint32_t w[4];

    mri_philox4x32(counter, key, w);
    out[0] = w[0] | (uint64_t)w[1] << 32;
    out[1] = w[2] | (uint64_t)w[3] << 32;
}

uint64_t mri_rng_bits(mri_rng r, uint64_t i)
{
    uint64_t w[2];
    block(r, i / 2, w);
    return w[i % 2];
}

double mri_rng_uniform(mri_rng r, uint64_t i)
{
    return (double)(mri_rng_bits(r, i) >> 11) * 0x1p-53;
}

/* ln x for normal x > 0: x = m 2^e with m in [sqrt(1/2), sqrt(2)), then
 * ln m = 2 atanh s = 2 (s + s^3/3 + s^5/5 + ...) with s = (m-1)/(m+1), |s| < 0.172. */
static double log_fixed(double x)
{
    int e;
    double m = frexp(x, &e); /* [1/2, 1), exact */
    if (m < 0.70710678118654752) {
        m *= 2;
        e--;
    }
    double s = (m - 1) / (m + 1), z = s * s, sum = 0;
    for (int k = 23; k >= 1; k -= 2)
        sum = sum * z + 1.0 / k;
    return e * 0.69314718055994531 + 2 * s * sum;
}

/* cos and sin of 2 pi u, u in [0, 1): u is folded into an eighth of a turn around the nearest
 * quarter, which is exact, and the Taylor series run to x^17 (below one ulp there). */
static void turn_fixed(double u, double *cosine, double *sine)
{
    int q = (int)(4 * u + 0.5); /* nearest quarter: 0 .. 4 */
    double x = (u - 0.25 * q) * 6.2831853071795865, z = x * x, c = 1, s = 1;
    for (int k = 16; k >= 2; k -= 2) {
        c = 1 - c * z / (k * (k - 1));
        s = 1 - s * z / (k * (k + 1));
    }
    s *= x;
    for (; q; q--) { /* turn back by quarters */
        double t = c;
        c = -s;
        s = t;
    }
    *cosine = c;
    *sine = s;
}

/* Box and Muller 1958: two uniforms to two normals, elements 2b and 2b+1 */
static void normal_pair(mri_rng r, uint64_t b, double out[2])
{
    uint64_t w[2];
    double c, s;

    block(r, b, w);
    double u = (double)((w[0] >> 11) + 1) * 0x1p-53; /* (0, 1]: its logarithm exists */
    turn_fixed((double)(w[1] >> 11) * 0x1p-53, &c, &s);
    double radius = sqrt(-2 * log_fixed(u));
    out[0] = radius * c;
    out[1] = radius * s;
}

double mri_rng_normal(mri_rng r, uint64_t i)
{
    double z[2];
    normal_pair(r, i / 2, z);
    return z[i % 2];
}

void mri_rng_normals(mri_rng r, uint64_t first, uint64_t n, double scale, float *out)
{
    double z[2] = { 0, 0 };

    for (uint64_t j = 0; j < n; j++) {
        uint64_t i = first + j;
        if (j == 0 || i % 2 == 0)
            normal_pair(r, i / 2, z);
        out[j] = (float)(scale * z[i % 2]);
    }
}
