/* SPDX-License-Identifier: Apache-2.0
 *
 * argmax.c - the place of each row's largest value: one pass for the value, NaN passed over, one
 * that ends where it is found first. Rows are shared out over threads.
 */
#include "vec.h"

struct argmax {
    struct kernel base;
    int64_t rows, width;
    int parts;
};

static int32_t first_largest(arr x, int64_t n)
{
    vf top = vset(-INFINITY);
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        vf v = ld(x, i, W);
        top = vsel((vi)(v > top), v, top); /* NaN is not larger */
    }
    float most = vhmax(top);
    for (; i < n; i++)
        most = get(x, i) > most ? get(x, i) : most;
    for (i = 0; i < n; i++)
        if (get(x, i) == most)
            return (int32_t)i;
    return 0; /* nothing but NaN */
}

static mr_status argmax_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                            mr_err *err)
{
    const struct argmax *k = (const struct argmax *)base;
    int32_t *index = out[0].data;
#pragma omp parallel for schedule(static, 1) if (k->parts > 1)
    for (int p = 0; p < k->parts; p++) {
        int64_t lo, hi;
        cpu_range(k->rows, 1, p, k->parts, &lo, &hi);
        for (int64_t r = lo; r < hi; r++)
            index[r] = first_largest(arr_at(in_arr(base, in, 0), r * k->width), k->width);
    }
    (void)ws, (void)err;
    return MR_OK;
}

static mr_status argmax_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct argmax *k = (struct argmax *)base;
    k->rows = c->in[0]->dim[0];
    k->width = c->in[0]->dim[1];
    k->parts = cpu_parts(base, k->rows * k->width, 16384);
    k->parts = k->parts > k->rows && k->rows > 0 ? (int)k->rows : k->parts;
    base->run = argmax_run;
    (void)err;
    return MR_OK;
}

const struct op_row ISA_NAME(argmax_rows)[] = {
    { "argmax", "x>i", sizeof(struct argmax), argmax_prepare },
    { 0 },
};
