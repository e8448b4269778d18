// SPDX-License-Identifier: Apache-2.0
//
// mla.cuh - what the kernels of latent attention share: the widths inside a head, the
// rotation of neighbouring pairs by position, and copies of whole 16 bytes with several in flight.

#ifndef MRUN_CUDA_MLA_CUH
#define MRUN_CUDA_MLA_CUH
#include "vec.cuh"

enum { MLA_MAX_PAIRS = 128 };

struct mla_args { // what a launch carries by value
    int heads, nope, rope, value; // rope: twice the pairs
    float factor;
    double turn; // 1; -1: back
    double freq[MLA_MAX_PAIRS];
};

// cosine and sine of pair i at a position, times factor. The angle is a product in double,
// brought into +-pi before the f32 sine.
DEV float2 turn_of(const mla_args &a, int32_t position, int i)
{
    const double tau = 6.283185307179586476925;
    double angle = a.turn * (double)position * a.freq[i];
    float s, c;
    sincosf((float)(angle - tau * rint(angle / tau)), &s, &c);
    return float2{ c * a.factor, s * a.factor };
}

template <typename F, int V> struct alignas(V == 1 ? sizeof(F) : 16) lump {
    F x[V];
};

// Items first, first + STEP .. below n of V elements each; `place` tells from where to where, NULL
// for zeros.
template <typename F, int V, int STEP, typename Place>
DEV void copy_items(int first, int n, Place place)
{
    constexpr int U = 4;
    for (int e = first; e < n; e += STEP * U) {
        lump<F, V> v[U];
        F *to[U];
#pragma unroll
        for (int u = 0; u < U; u++)
            if (e + u * STEP < n) {
                const F *from = place(e + u * STEP, to[u]);
                v[u] = from ? *(const lump<F, V> *)from : lump<F, V>{};
            }
#pragma unroll
        for (int u = 0; u < U; u++)
            if (e + u * STEP < n)
                *(lump<F, V> *)to[u] = v[u];
    }
}

// reads heads, nope_dim, inv_freq and factor; kv: the width of all heads' keys and values, or 0
static inline mr_status mla_read(const struct kernel *k, const mr_call *c, int64_t kv,
                                 mla_args *a, mr_err *err)
{
    const mr_attr *freq = mr_attr_find(c, "inv_freq");
    a->heads = (int)mr_attr_i(c, "heads", 1);
    a->nope = (int)mr_attr_i(c, "nope_dim", 0);
    a->value = kv ? (int)(kv / a->heads) - a->nope : 0;
    a->factor = (float)mr_attr_f(c, "factor", 1);
    a->turn = mr_attr_i(c, "inverse", 0) ? -1 : 1;
    if (!freq || freq->n > MLA_MAX_PAIRS)
        return cuda_refuse(k, err, "more than 128 frequencies");
    a->rope = 2 * (int)freq->n;
    memcpy(a->freq, freq->u.fs, freq->n * sizeof *a->freq);
    return MR_OK;
}

#endif
