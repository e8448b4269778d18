/* SPDX-License-Identifier: Apache-2.0
 *
 * masters.h - the operands master and weights of the ops that write parameters: f32 masters with
 * or without bf16 weights, or bf16 weights and an i16 rest, which are the masters together
 * (core/ops/ref.h defines the halves), or bf16 weights alone.
 */
#ifndef MRUN_CPU_MASTERS_H
#define MRUN_CPU_MASTERS_H
#include "vec.h"

typedef int16_t vs __attribute__((vector_size(2 * W)));

struct master_kinds { /* what a call's operands are */
    int has_master, split, has_weights;
};

typedef struct masters {
    arr whole;         /* p NULL: none   */
    int16_t *rest;     /* NULL: whole    */
    uint16_t *weights; /* NULL: none     */
} masters;

INLINE struct master_kinds master_kinds_of(const mr_call *c, uint32_t weights)
{
    const mr_type *master = c->n_in ? c->in[0] : NULL;
    return (struct master_kinds){ master != NULL, mr_is(master, "i16"),
                                  c->n_in > weights && c->in[weights] };
}

INLINE masters masters_of(struct master_kinds k, const mr_buf *in, int weights)
{
    void *master = k.has_master ? in[0].data : NULL;
    return (masters){ { k.split ? NULL : master, 0 }, k.split ? master : NULL,
                      k.has_weights ? in[weights].data : NULL };
}

INLINE void halves_copy(void *to, const void *from, int lanes)
{
    if (__builtin_expect(lanes == W, 1))
        __builtin_memcpy(to, from, 2 * W);
    else
        memcpy(to, from, 2 * (size_t)lanes);
}

INLINE vf master_ld(masters m, int64_t i, int lanes)
{
    vh weight = { 0 };
    vs rest = { 0 };
    if (!m.rest)
        return ld(m.whole, i, lanes);
    halves_copy(&weight, m.weights + i, lanes);
    halves_copy(&rest, m.rest + i, lanes);
    return (vf)((__builtin_convertvector(weight, vu) << 16) +
                (vu)__builtin_convertvector(rest, vi));
}

INLINE void master_st(masters m, int64_t i, int lanes, vf x)
{
    vu u = (vu)x, nan = (vu)((vi)(u & 0x7fffffff) > 0x7f800000);
    if (!m.rest) {
        if (m.whole.p)
            st(m.whole, i, lanes, x);
        if (m.weights)
            st((arr){ m.weights, 1 }, i, lanes, x);
        return;
    }
    vh weight = __builtin_convertvector(((nan & (u | 0x400000)) | (~nan & (u + 0x8000))) >> 16, vh);
    vh rest = __builtin_convertvector(u & 0xffff, vh);
    halves_copy(m.weights + i, &weight, lanes);
    halves_copy(m.rest + i, &rest, lanes);
}

#endif
