/* SPDX-License-Identifier: Apache-2.0
 *
 * reduce.c - sums, maxima and minima over ranks, in their order. bf16 is added in f32 and rounded
 * once, to the nearest even; integers wrap.
 */
#include "sim.h"
#include <string.h>

static float from_bf16(uint16_t x)
{
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint16_t to_bf16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) /* not a number: stays one */
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

#define SAME(x) (x)
/* NaN wins over a maximum and a minimum: an error must not be hidden */
#define REDUCE(name, type, work, get, put, add) \
    static void name(void *out_, const sim_call *in, uint32_t n_in, uint64_t from, uint64_t to, \
                     uint32_t op) \
    { \
        type *out = out_; \
        for (uint64_t i = from; i < to; i++) { \
            work x = get(((const type *)in[0].in)[i]); \
            for (uint32_t r = 1; r < n_in; r++) { \
                work y = get(((const type *)in[r].in)[i]); \
                x = op == MR_COMM_SUM   ? (work)(add) \
                    : y != y            ? y \
                    : op == MR_COMM_MAX ? (y > x ? y : x) \
                                        : (y < x ? y : x); \
            } \
            out[i] = put(x); \
        } \
    }
REDUCE(reduce_f32, float, float, SAME, SAME, x + y)
REDUCE(reduce_f64, double, double, SAME, SAME, x + y)
REDUCE(reduce_bf16, uint16_t, float, from_bf16, to_bf16, x + y)
REDUCE(reduce_i32, int32_t, int32_t, SAME, SAME, (uint32_t)x + (uint32_t)y)
REDUCE(reduce_i64, int64_t, int64_t, SAME, SAME, (uint64_t)x + (uint64_t)y)
REDUCE(reduce_u8, uint8_t, uint8_t, SAME, SAME, x + y)

static const struct {
    const char *dtype;
    uint64_t width;
    void (*reduce)(void *out, const sim_call *in, uint32_t n_in, uint64_t from, uint64_t to,
                   uint32_t op);
} types[] = {
    { "f32", 4, reduce_f32 }, { "f64", 8, reduce_f64 }, { "bf16", 2, reduce_bf16 },
    { "i32", 4, reduce_i32 }, { "i64", 8, reduce_i64 }, { "u8", 1, reduce_u8 },
};

uint64_t sim_width(const char *dtype)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(types[i].dtype, dtype))
            return types[i].width;
    return 0;
}

bool sim_reduce(void *out, const sim_call *in, uint32_t n_in, uint64_t from, uint64_t to,
                const char *dtype, uint32_t op)
{
    for (size_t i = 0; i < sizeof types / sizeof *types && op <= MR_COMM_MIN; i++)
        if (!strcmp(types[i].dtype, dtype)) {
            types[i].reduce(out, in, n_in, from, to, op);
            return true;
        }
    return false;
}
