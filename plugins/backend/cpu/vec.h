/* SPDX-License-Identifier: Apache-2.0
 *
 * vec.h - vectors of W floats, in gcc's vector types, for the instruction set that the file
 * is compiled for; loads and stores that take f32 or bf16; exp, erf, sums over lanes.
 * Arithmetic is always f32. fma() is one rounding where the machine has it, else two.
 */
#ifndef MRUN_CPU_VEC_H
#define MRUN_CPU_VEC_H
#include "cpu.h"
#include <immintrin.h>
#include <math.h>

#if defined(__AVX512F__)
#define W 16
#elif defined(__AVX2__)
#define W 8
#else
#define W 4
#endif

#define INLINE static inline __attribute__((always_inline, unused))

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef uint16_t vh __attribute__((vector_size(2 * W)));

/* An operand's memory: f32 or bf16. */
typedef struct arr {
    void *p;
    int bf;
} arr;

INLINE arr in_arr(const struct kernel *k, const mr_buf *in, int i)
{
    return (arr){ in[i].data, k->in_bf[i] };
}

INLINE arr out_arr(const struct kernel *k, const mr_buf *out, int i)
{
    return (arr){ out[i].data, k->out_bf[i] };
}

INLINE arr arr_at(arr a, int64_t i) /* the array that begins at element i */
{
    return (arr){ (char *)a.p + i * (a.bf ? 2 : 4), a.bf };
}

INLINE vf vset(float x)
{
    return x - (vf){ 0 };
}

INLINE vf vload(const float *p)
{
    vf v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

INLINE void vstore(float *p, vf v)
{
    __builtin_memcpy(p, &v, sizeof v);
}

INLINE vf vfma(vf a, vf b, vf c) /* a b + c */
{
#if W == 16
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif W == 8
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

INLINE vf vmax(vf a, vf b)
{
#if W == 16
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif W == 8
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return (vf)_mm_max_ps((__m128)a, (__m128)b);
#endif
}

INLINE vf vmin(vf a, vf b)
{
#if W == 16
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif W == 8
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return (vf)_mm_min_ps((__m128)a, (__m128)b);
#endif
}

INLINE vf vsqrt(vf a)
{
#if W == 16
    return (vf)_mm512_sqrt_ps((__m512)a);
#elif W == 8
    return (vf)_mm256_sqrt_ps((__m256)a);
#else
    return (vf)_mm_sqrt_ps((__m128)a);
#endif
}

INLINE vf vsel(vi mask, vf a, vf b) /* lanes of a where the mask is -1 */
{
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
}

INLINE vf vabs(vf a)
{
    return (vf)((vi)a & 0x7fffffff);
}

/* ---- bf16 --------------------------------------------------------------------------- */
INLINE vf vload_bf(const uint16_t *p)
{
    vh h;
    __builtin_memcpy(&h, p, sizeof h);
    return (vf)(__builtin_convertvector(h, vu) << 16);
}

INLINE vu vround_bits(vf v) /* to nearest even; the upper 16 bits are the bf16; NaN stays NaN */
{
    vu u = (vu)v;
    vu r = u + 0x7fff + ((u >> 16) & 1);
    vu nan = (vu)((vi)(u & 0x7fffffff) > 0x7f800000);
    return (nan & (u | 0x400000)) | (~nan & r);
}

INLINE void vstore_bf(uint16_t *p, vf v)
{
    vh h = __builtin_convertvector(vround_bits(v) >> 16, vh);
    __builtin_memcpy(p, &h, sizeof h);
}

INLINE vf vround_bf(vf v) /* as if stored to bf16 and read again */
{
    return (vf)(vround_bits(v) & 0xffff0000u);
}

INLINE float bf_get(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

INLINE uint16_t bf_put(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

INLINE float get(arr a, int64_t i)
{
    return a.bf ? bf_get(((const uint16_t *)a.p)[i]) : ((const float *)a.p)[i];
}

INLINE void put(arr a, int64_t i, float x)
{
    if (a.bf)
        ((uint16_t *)a.p)[i] = bf_put(x);
    else
        ((float *)a.p)[i] = x;
}

/* ---- any dtype, any length: n lanes from element i, the others zero ------------------ */
#define LANES(i, end) ((end) - (i) < W ? (int)((end) - (i)) : W)

static __attribute__((noinline, unused)) vf ld_tail(arr a, int64_t i, int n)
{
    vf v = { 0 };
    for (int l = 0; l < n; l++)
        v[l] = get(a, i + l);
    return v;
}

static __attribute__((noinline, unused)) void st_tail(arr a, int64_t i, int n, vf v)
{
    for (int l = 0; l < n; l++)
        put(a, i + l, v[l]);
}

INLINE vf ld(arr a, int64_t i, int n)
{
    if (__builtin_expect(n < W, 0))
        return ld_tail(a, i, n);
    return a.bf ? vload_bf((const uint16_t *)a.p + i) : vload((const float *)a.p + i);
}

INLINE void st(arr a, int64_t i, int n, vf v)
{
    if (__builtin_expect(n < W, 0))
        st_tail(a, i, n, v);
    else if (a.bf)
        vstore_bf((uint16_t *)a.p + i, v);
    else
        vstore((float *)a.p + i, v);
}

INLINE void zero(arr a, int64_t i, int64_t n)
{
    memset((char *)a.p + i * (a.bf ? 2 : 4), 0, (size_t)n * (a.bf ? 2 : 4));
}

/* dst[0..n) = src[i..i+n) as f32, then zeros up to `width` */
INLINE void to_f32(float *dst, arr src, int64_t i, int64_t n, int64_t width)
{
    int64_t j = 0;
    for (; j + W <= n; j += W)
        vstore(dst + j, ld(src, i + j, W));
    for (; j < n; j++)
        dst[j] = get(src, i + j);
    for (; j < width; j++)
        dst[j] = 0;
}

INLINE void from_f32(arr dst, int64_t i, const float *src, int64_t n)
{
    for (int64_t j = 0; j < n; j += W) {
        int l = LANES(j, n);
        st(dst, i + j, l, ld((arr){ (void *)(uintptr_t)src, 0 }, j, l));
    }
}

/* a and b to a0 b0 a1 b1 ..; done log2(W) times over W vectors, it transposes them */
INLINE void interleave(vf a, vf b, vf *lo, vf *hi)
{
#if W == 16
    *lo = __builtin_shuffle(a, b, (vi){ 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23 });
    *hi = __builtin_shuffle(a, b, (vi){ 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
                                        31 });
#elif W == 8
    *lo = __builtin_shuffle(a, b, (vi){ 0, 8, 1, 9, 2, 10, 3, 11 });
    *hi = __builtin_shuffle(a, b, (vi){ 4, 12, 5, 13, 6, 14, 7, 15 });
#else
    *lo = __builtin_shuffle(a, b, (vi){ 0, 4, 1, 5 });
    *hi = __builtin_shuffle(a, b, (vi){ 2, 6, 3, 7 });
#endif
}

/* 2W bf16 at once, the even ones and the odd ones: half the work of two vload_bf */
INLINE vu vload_pairs(const uint16_t *p)
{
    vu u;
    __builtin_memcpy(&u, p, sizeof u);
    return u;
}

INLINE vf vevens(vu pairs)
{
    return (vf)(pairs << 16);
}

INLINE vf vodds(vu pairs)
{
    return (vf)(pairs & 0xffff0000u);
}

/* ---- over lanes, halves onto halves: always in the same order ------------------------- */
#if W == 16
#define FOLD(q, v, op) \
    __m256 q##8 = _mm256_##op##_ps(_mm512_castps512_ps256((__m512)(v)), \
                                   _mm512_extractf32x8_ps((__m512)(v), 1)); \
    FOLD8(q, q##8, op)
#elif W == 8
#define FOLD(q, v, op) FOLD8(q, (__m256)(v), op)
#else
#define FOLD(q, v, op) __m128 q = (__m128)(v)
#endif
#define FOLD8(q, v, op) \
    __m128 q = _mm_##op##_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1))

INLINE float vsum(vf v)
{
    FOLD(q, v, add);
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}

INLINE float vhmax(vf v)
{
    FOLD(q, v, max);
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}

INLINE vi viota(void)
{
    vi v;
    for (int i = 0; i < W; i++)
        v[i] = i;
    return v;
}

/* ---- functions ------------------------------------------------------------------------
 * exp: x = n ln2 + r with |r| <= ln2/2, ln2 in two pieces (Cody & Waite), e^r by a minimax
 * polynomial of degree 7 (Cephes' coefficients), times 2^n. Within 2 ulp. The limits are
 * applied so that NaN passes: max and min give their second operand then. */
INLINE vf exp_reduced(vf c, vi *n)
{
    const vf magic = vset(12582912.0f); /* 1.5 2^23: adding it rounds to an integer */
    vf t = vfma(c, vset(1.44269504088896341f), magic);
    vf r = vfma(t - magic, vset(-0.693145751953125f), c);
    r = vfma(t - magic, vset(-1.42860682030941723e-6f), r);
    vf p = vset(1.9875691500e-4f);
    p = vfma(p, r, vset(1.3981999507e-3f));
    p = vfma(p, r, vset(8.3334519073e-3f));
    p = vfma(p, r, vset(4.1665795894e-2f));
    p = vfma(p, r, vset(1.6666665459e-1f));
    p = vfma(p, r, vset(5.0000001201e-1f));
    *n = (vi)t - (vi)magic;
    return vfma(p, r * r, r) + 1.0f;
}

INLINE vf vexp(vf x) /* 0 below -104, inf above 88.73; 2^n in two factors for the edges */
{
    vi n;
    vf p = exp_reduced(vmin(vset(89.0f), vmax(vset(-105.0f), x)), &n);
    vi half = n >> 1;
    return p * (vf)((half + 127) << 23) * (vf)((n - half + 127) << 23);
}

INLINE vf vexp_neg(vf x) /* for x <= 0.5, as in a softmax: 0 below -87.3 */
{
    vi n;
    vf p = exp_reduced(vmax(vset(-87.3f), x), &n);
    return (vf)((vi)(p * (vf)((n + 127) << 23)) & ~(vi)(x < vset(-87.3f)));
}

INLINE vf vsigmoid(vf x)
{
    return 1.0f / (1.0f + vexp(-x));
}

/* erf by Abramowitz & Stegun 7.1.26, absolute error 1.5e-7; also gives exp(-x^2). */
INLINE vf verf(vf x, vf *gauss)
{
    vf a = vabs(x);
    vf t = 1.0f / vfma(a, vset(0.3275911f), vset(1.0f));
    vf p = vset(1.061405429f);
    p = vfma(p, t, vset(-1.453152027f));
    p = vfma(p, t, vset(1.421413741f));
    p = vfma(p, t, vset(-0.284496736f));
    p = vfma(p, t, vset(0.254829592f));
    *gauss = vexp(-(x * x));
    vf y = 1.0f - p * t * *gauss;
    return (vf)((vi)y | ((vi)x & (vi)vset(-0.0f)));
}

INLINE float fexp(float x)
{
    return vexp(vset(x))[0];
}

#endif
