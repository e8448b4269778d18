/* SPDX-License-Identifier: Apache-2.0
 *
 * rope.h - what the kernels that turn heads by their positions share: the op's attributes, and
 * the angle. An angle is made in double and as a part of a whole turn, so that position 1,000,000
 * is as exact as position 1 and the sine never reduces its argument.
 */
#ifndef MRUN_CUDA_ROPE_H
#define MRUN_CUDA_ROPE_H
#include "vec.cuh"

enum { MAX_PAIRS = 256 };

// What a launch carries by value.
struct rope_args {
    int64_t tokens;
    int width, head_dim, pairs, interleaved;
    float factor, eps;
    double turns[MAX_PAIRS]; // whole turns a position, of each pair; signed
};

DEV void cos_sin(const rope_args &a, int pair, int position, float &co, float &si)
{
    const double t = (double)position * a.turns[pair];
    sincospif(2 * (float)(t - rint(t)), &si, &co);
    co *= a.factor;
    si *= a.factor;
}

struct rope {
    struct kernel base;
    rope_args a;
};

// Fills in k->a; `back`: turn against the op's own direction.
static inline mr_status rope_take(struct rope *k, const mr_call *c, int back, mr_err *err)
{
    const mr_attr *freq = mr_attr_find(c, "inv_freq");
    const double tau = 6.283185307179586476925;
    const int64_t width = c->in[0]->dim[1];
    if (!freq || freq->n > MAX_PAIRS)
        return cuda_refuse(&k->base, err, "more than 256 frequencies");
    if (width > 1 << 30)
        return cuda_refuse(&k->base, err, "rows above 2^30 values");
    k->a.tokens = c->in[0]->dim[0];
    k->a.width = (int)width;
    k->a.head_dim = (int)mr_attr_i(c, "head_dim", 1);
    k->a.pairs = (int)freq->n;
    k->a.interleaved = mr_attr_i(c, "interleaved", 1) != 0;
    k->a.factor = (float)mr_attr_f(c, "factor", 1);
    k->a.eps = (float)mr_attr_f(c, "eps", 1e-5);
    const double sign = !mr_attr_i(c, "inverse", 0) == !back ? 1 : -1;
    for (uint32_t i = 0; i < freq->n; i++)
        k->a.turns[i] = sign * freq->u.fs[i] / tau;
    return MR_OK;
}

#endif
