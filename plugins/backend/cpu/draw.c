/* SPDX-License-Identifier: Apache-2.0
 *
 * draw.c - first values of parameters: the bits of the catalogue's definition, D normal pairs at
 * a time. Philox4x32-10 runs with a 32-bit word in each 64-bit lane; logarithm, cosine and sine
 * are the definition's own series, every operation rounded to double in its order (no fused
 * multiply-add), so all widths give equal bits. A pair costs 17 divisions and a root: about 20
 * cycles an element with 8 lanes, far above the 4 to 6 bytes that are written.
 */
#include "masters.h"

enum { D = W / 2, WEIGHTS = 1, BLOCK = 2048 /* elements that one thread draws at a time */ };

typedef double vd __attribute__((vector_size(8 * D)));
typedef uint64_t vq __attribute__((vector_size(8 * D)));
typedef int64_t vl __attribute__((vector_size(8 * D))); /* what comparing doubles gives */

struct draw {
    struct kernel base;
    int64_t n, run, step; /* run n: all elements follow each other */
    uint64_t seed, stream, first;
    double scale;
    void (*fill)(const struct draw *, uint64_t first, int64_t n, float *out);
    struct master_kinds kinds;
};

#define SELF const struct draw *k = (const struct draw *)base

INLINE vq multiply(vq a, uint64_t b) /* of the low halves */
{
#if W == 16
    return (vq)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64((int64_t)b));
#elif W == 8
    return (vq)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x((int64_t)b));
#else
    return (vq)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x((int64_t)b));
#endif
}

INLINE vd root(vd a)
{
#if W == 16
    return (vd)_mm512_sqrt_pd((__m512d)a);
#elif W == 8
    return (vd)_mm256_sqrt_pd((__m256d)a);
#else
    return (vd)_mm_sqrt_pd((__m128d)a);
#endif
}

INLINE vd choose(vl mask, vd a, vd b)
{
    return (vd)((mask & (vl)a) | (~mask & (vl)b));
}

/* The two 64-bit words of block b of the stream, a block a lane. Only low halves count, so what
 * is above them is left to lie until the end. */
INLINE void philox(const struct draw *k, vq b, vq *first, vq *second)
{
    vq c0 = b, c1 = b >> 32, c2 = (vq){ 0 } + k->stream, c3 = c2 >> 32;
    uint32_t k0 = (uint32_t)k->seed, k1 = (uint32_t)(k->seed >> 32);
    for (int round = 0; round < 10; round++) {
        vq x = multiply(c0, 0xD2511F53u), y = multiply(c2, 0xCD9E8D57u);
        c0 = (y >> 32) ^ c1 ^ k0;
        c1 = y;
        c2 = (x >> 32) ^ c3 ^ k1;
        c3 = x;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    *first = (c0 & 0xffffffff) | c1 << 32;
    *second = (c2 & 0xffffffff) | c3 << 32;
}

INLINE vd exactly(vq x) /* up to 2^53, as a double: its halves with the exponents 2^84 and 2^52 */
{
    vd high = (vd)(x >> 32 | 0x4530000000000000), low = (vd)((x & 0xffffffff) | 0x4330000000000000);
    return (high - (0x1p84 + 0x1p52)) + low;
}

INLINE vd log_fixed(vd x) /* for x in (0, 1] that is normal */
{
    vd e = (vd)((vq)x >> 52 | 0x4330000000000000) - (0x1p52 + 1022);
    vd m = (vd)(((vq)x & 0xfffffffffffff) | 0x3fe0000000000000);
    vl below = m < 0.70710678118654752;
    m = choose(below, m * 2, m);
    e = choose(below, e - 1, e);
    vd s = (m - 1) / (m + 1), z = s * s, sum = { 0 };
    for (int k = 23; k >= 1; k -= 2)
        sum = sum * z + 1.0 / k;
    return e * 0.69314718055994531 + 2 * s * sum;
}

INLINE void turn_fixed(vd u, vd *cosine, vd *sine)
{
    vd t = 4 * u + 0.5, one = (vd){ 0 } + 1, none = { 0 };
    vd q = choose(t >= 1, one, none) + choose(t >= 2, one, none) + choose(t >= 3, one, none) +
           choose(t >= 4, one, none);
    vd x = (u - 0.25 * q) * 6.2831853071795865, z = x * x, c = one, s = one;
    for (int k = 16; k >= 2; k -= 2) {
        c = 1 - c * z / (double)(k * (k - 1));
        s = 1 - s * z / (double)(k * (k + 1));
    }
    s *= x;
    vl half = (q == 2) | (q == 3), odd = (q == 1) | (q == 3);
    c = choose(half, -c, c);
    s = choose(half, -s, s);
    *cosine = choose(odd, -s, c);
    *sine = choose(odd, c, s);
}

/* 2 D deviates, those of blocks b .. b + D - 1 */
INLINE void normal_pairs(const struct draw *k, uint64_t b, float out[W])
{
    vq lane, first, second;
    vd c, s;
    for (int l = 0; l < D; l++)
        lane[l] = (uint64_t)l;
    philox(k, lane + b, &first, &second);
    turn_fixed(exactly(second >> 11) * 0x1p-53, &c, &s);
    vd radius = root(-2 * log_fixed(exactly((first >> 11) + 1) * 0x1p-53));
    c = k->scale * (radius * c);
    s = k->scale * (radius * s);
    for (int l = 0; l < D; l++) {
        out[2 * l] = (float)c[l];
        out[2 * l + 1] = (float)s[l];
    }
}

static void fill_normal(const struct draw *k, uint64_t first, int64_t n, float *out)
{
    float room[W];
    for (int64_t i = 0; i < n;) {
        uint64_t at = first + (uint64_t)i, skip = at % 2;
        int64_t now = W - (int64_t)skip < n - i ? W - (int64_t)skip : n - i;
        int direct = !skip && now == W;
        normal_pairs(k, at / 2, direct ? out + i : room);
        if (!direct)
            memcpy(out + i, room + skip, (size_t)now * sizeof *out);
        i += now;
    }
}

static void fill_uniform(const struct draw *k, uint64_t first, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) {
        uint64_t at = first + (uint64_t)i;
        vq lane = { 0 }, word[2];
        philox(k, lane + at / 2, &word[0], &word[1]);
        double u = (double)(word[at % 2][0] >> 11) * 0x1p-53;
        out[i] = (float)(k->scale * (2 * u - 1));
    }
}

static void fill_constant(const struct draw *k, uint64_t first, int64_t n, float *out)
{
    (void)first;
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)k->scale;
}

static const struct {
    const char *kind;
    void (*fill)(const struct draw *, uint64_t, int64_t, float *);
} fills[] = {
    { "normal", fill_normal },
    { "uniform", fill_uniform },
    { "constant", fill_constant },
};

static mr_status draw_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                          mr_err *err)
{
    SELF;
    masters m = masters_of(k->kinds, in, WEIGHTS);
    int64_t blocks = (k->n + BLOCK - 1) / BLOCK;
    int parts = cpu_parts(base, blocks, 1);
#pragma omp parallel for schedule(static) num_threads(parts) if (parts > 1)
    for (int64_t b = 0; b < blocks; b++) {
        float x[BLOCK];
        int64_t at = b * BLOCK, n = k->n - at < BLOCK ? k->n - at : BLOCK;
        for (int64_t i = 0, now; i < n; i += now) {
            int64_t row = (at + i) / k->run, off = (at + i) % k->run;
            now = k->run - off < n - i ? k->run - off : n - i;
            k->fill(k, k->first + (uint64_t)(row * k->step + off), now, x + i);
        }
        for (int64_t i = 0; i < n; i += W)
            master_st(m, at + i, LANES(i, n), ld((arr){ x, 0 }, i, LANES(i, n)));
    }
    (void)out, (void)ws, (void)err;
    return MR_OK;
}

static mr_status draw_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct draw *k = (struct draw *)base;
    const char *kind = mr_attr_s(c, "kind", "normal");
    (void)err;
    k->n = mr_numel(c->in[0] ? c->in[0] : c->in[WEIGHTS]);
    k->seed = (uint64_t)mr_attr_i(c, "seed", 0);
    k->stream = (uint64_t)mr_attr_i(c, "stream", 0);
    k->first = (uint64_t)mr_attr_i(c, "first", 0);
    k->run = mr_attr_i(c, "run", 0);
    k->run = k->run ? k->run : k->n ? k->n : 1;
    k->step = mr_attr_i(c, "step", 0);
    k->scale = mr_attr_f(c, "scale", 1);
    k->kinds = master_kinds_of(c, WEIGHTS);
    for (size_t i = 0; i < sizeof fills / sizeof *fills; i++)
        if (!strcmp(kind, fills[i].kind))
            k->fill = fills[i].fill;
    base->run = draw_run;
    return MR_OK;
}

const struct op_row ISA_NAME(draw_rows)[] = {
    { "draw", "MB>", sizeof(struct draw), draw_prepare },
    { 0 },
};
