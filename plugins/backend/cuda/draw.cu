// SPDX-License-Identifier: Apache-2.0
//
// draw.cu - first values of parameters, made where they live: the bits of the catalogue's
// definition. A thread draws a pair: Philox4x32-10, then Box and Muller with the definition's own
// series for logarithm, cosine and sine; the __d..._rn forms keep the compiler from fusing what
// the definition rounds. Some 300 double operations a pair (most of them in 17 divisions) against
// 8 to 12 bytes written: bound by arithmetic. A million elements take 12 us on an H200, where the
// bytes alone would take 1.4 and an upload of f32 over PCIe 72.

#include "masters.cuh"

enum { WEIGHTS = 1 };
enum draw_kind { NORMAL, UNIFORM, CONSTANT };

struct draw {
    struct kernel base;
    int64_t n, run, step; // run n: all elements follow each other
    uint64_t seed, stream, first;
    double scale;
    int kind;
};

#define SELF const struct draw *k = (const struct draw *)base

DEV double mul(double a, double b) { return __dmul_rn(a, b); }
DEV double plus(double a, double b) { return __dadd_rn(a, b); }
DEV double minus(double a, double b) { return __dsub_rn(a, b); }

// the two 64-bit words of block b of a stream
DEV void philox(uint64_t seed, uint64_t stream, uint64_t b, uint64_t out[2])
{
    uint32_t c0 = (uint32_t)b, c1 = (uint32_t)(b >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint64_t x = (uint64_t)0xD2511F53u * c0, y = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(y >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)y;
        c2 = (uint32_t)(x >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)x;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0 | (uint64_t)c1 << 32;
    out[1] = c2 | (uint64_t)c3 << 32;
}

DEV double log_fixed(double x) // for x in (0, 1] that is normal
{
    const uint64_t bits = (uint64_t)__double_as_longlong(x);
    int e = (int)(bits >> 52) - 1022;
    double m = __longlong_as_double((long long)((bits & 0xfffffffffffff) | 0x3fe0000000000000));
    if (m < 0.70710678118654752) {
        m = mul(m, 2);
        e--;
    }
    const double s = __ddiv_rn(minus(m, 1), plus(m, 1)), z = mul(s, s);
    double sum = 0;
#pragma unroll
    for (int k = 23; k >= 1; k -= 2)
        sum = plus(mul(sum, z), 1.0 / k);
    return plus(mul(e, 0.69314718055994531), mul(mul(2, s), sum));
}

DEV void turn_fixed(double u, double *cosine, double *sine)
{
    int q = (int)plus(mul(4, u), 0.5);
    const double x = mul(minus(u, mul(0.25, q)), 6.2831853071795865), z = mul(x, x);
    double c = 1, s = 1;
#pragma unroll
    for (int k = 16; k >= 2; k -= 2) {
        c = minus(1, __ddiv_rn(mul(c, z), (double)(k * (k - 1))));
        s = minus(1, __ddiv_rn(mul(s, z), (double)(k * (k + 1))));
    }
    s = mul(s, x);
    for (; q; q--) {
        const double t = c;
        c = -s;
        s = t;
    }
    *cosine = c;
    *sine = s;
}

DEV double uniform(uint64_t word) { return mul((double)(word >> 11), 0x1p-53); }

// elements 2b and 2b + 1 of the stream
DEV void draw_pair(int kind, const uint64_t word[2], double scale, float out[2])
{
    if (kind == NORMAL) {
        double c, s;
        turn_fixed(uniform(word[1]), &c, &s);
        const double u = mul((double)((word[0] >> 11) + 1), 0x1p-53);
        const double radius = __dsqrt_rn(mul(-2, log_fixed(u)));
        out[0] = (float)mul(scale, mul(radius, c));
        out[1] = (float)mul(scale, mul(radius, s));
    } else {
        for (int j = 0; j < 2; j++)
            out[j] = (float)(kind == CONSTANT ? scale
                                              : mul(scale, minus(mul(2, uniform(word[j])), 1)));
    }
}

template <class M>
__global__ void __launch_bounds__(THREADS)
    draw(const M masters, int64_t n, int64_t run, int64_t step, int kind, uint64_t seed,
         uint64_t stream, uint64_t first, double scale)
{
    const int64_t pairs = run / 2 + 1; // that the elements of a run are in, at most
    GRID_LOOP(i, (n + run - 1) / run * pairs) {
        const int64_t row = i / pairs, pair = i % pairs;
        const uint64_t start = first + (uint64_t)(row * step);
        const int64_t skip = (int64_t)(start % 2); // the pair that the run's first element is in
        uint64_t word[2];
        float x[2];
        philox(seed, stream, start / 2 + (uint64_t)pair, word);
        draw_pair(kind, word, scale, x);
        for (int j = 0; j < 2; j++) {
            const int64_t in = 2 * pair + j - skip, at = row * run + in;
            if (in >= 0 && in < run && at < n)
                masters.template put<1>(at, x + j);
        }
    }
}

static mr_status draw_run(RUN_ARGS)
{
    SELF;
    (void)out, (void)ws;
    WITH_MASTERS(base, in, WEIGHTS,
                 draw<<<grid_for(k->n / 2 + 1), THREADS, 0, stream>>>(
                     masters, k->n, k->run, k->step, k->kind, k->seed, k->stream, k->first,
                     k->scale));
    return cuda_launched(base, err);
}

static mr_status draw_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    static const char *const kinds[] = { "normal", "uniform", "constant" };
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
    for (int i = 0; i < 3; i++)
        k->kind = strcmp(kind, kinds[i]) ? k->kind : i;
    base->run = draw_run;
    return MR_OK;
}

const struct op_row cuda_draw_rows[] = {
    { "draw", "MB>", sizeof(struct draw), draw_prepare, 0, 0 },
    {},
};
