/* SPDX-License-Identifier: Apache-2.0
 *
 * rope.c - rotary positions (Su et al. 2021). The angles of a row are computed once, in
 * double and reduced there, so that large positions keep their accuracy; then each head of
 * the row is rotated. No table of cosines is kept: a row's are cheaper than a row itself.
 */
#include "turn.h"
#include <stdlib.h>

struct rope {
    struct kernel base;
    int64_t rows, heads, width, n; /* n pairs of the `width` values of a head are rotated */
    int interleaved, few;
    float factor, sign;
    double *freq;   /* [n] */
    uint64_t stride; /* bytes of a part's scratch: cos and sin, [2n] each */
};

static void rotate_halves(arr x, arr y, int64_t n, const float *c, const float *s)
{
    arr ca = { (void *)(uintptr_t)c, 0 }, sa = { (void *)(uintptr_t)s, 0 };
    for (int64_t i = 0; i < n; i += W) {
        int l = LANES(i, n);
        vf a = ld(x, i, l), b = ld(x, i + n, l), co = ld(ca, i, l), si = ld(sa, i, l);
        st(y, i, l, a * co - b * si);
        st(y, i + n, l, b * co + a * si);
    }
}

static mr_status rope_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                          mr_err *err)
{
    const struct rope *k = (const struct rope *)base;
    arr x = in_arr(base, in, 0), y = out_arr(base, out, 0);
    const int32_t *pos = in[1].data;
    int parts = cpu_parts(base, k->rows * k->heads * k->width, 8192);
    if (parts > k->rows)
        parts = k->rows > 0 ? (int)k->rows : 1;
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        float *c = (float *)((char *)ws + p * k->stride), *s = c + 2 * k->n;
        int64_t lo, hi;
        cpu_range(k->rows, 1, p, parts, &lo, &hi);
        for (int64_t t = lo; t < hi; t++) {
            (k->few ? turn_angles_exact : turn_angles)(k->freq, k->n, pos[t], k->factor, k->sign,
                                                       k->interleaved, c, s);
            for (int64_t h = 0; h < k->heads; h++) {
                int64_t at = (t * k->heads + h) * k->width;
                if (k->interleaved)
                    turn_pairs(arr_at(x, at), arr_at(y, at), 2 * k->n, c, s);
                else
                    rotate_halves(arr_at(x, at), arr_at(y, at), k->n, c, s);
                for (int64_t i = 2 * k->n; i < k->width; i++)
                    put(y, at + i, get(x, at + i));
            }
        }
    }
    (void)err;
    return MR_OK;
}

static void rope_release(struct kernel *base)
{
    free(((struct rope *)base)->freq);
}

static mr_status rope_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct rope *k = (struct rope *)base;
    const mr_attr *f = mr_attr_find(c, "inv_freq");
    int64_t d = mr_last(c->in[0]);
    k->width = mr_attr_i(c, "head_dim", 0);
    if (!f || f->type != MR_A_F64S || k->width <= 0 || d % k->width || 2 * (int64_t)f->n > k->width)
        return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER,
                       "rope: head_dim %lld and %u frequencies do not fit rows of %lld values",
                       (long long)k->width, f ? f->n : 0, (long long)d);
    k->rows = mr_rows(c->in[0]);
    k->heads = d / k->width;
    k->n = f->n;
    k->few = k->rows * k->n <= TURN_FEW;
    k->interleaved = mr_attr_i(c, "interleaved", 1) != 0;
    k->factor = (float)mr_attr_f(c, "factor", 1);
    k->sign = mr_attr_i(c, "inverse", 0) ? -1.0f : 1.0f;
    k->freq = malloc((size_t)(f->n ? f->n : 1) * sizeof(double));
    if (!k->freq)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for %u frequencies", f->n);
    memcpy(k->freq, f->u.fs, f->n * sizeof(double));
    k->stride = cpu_round(4 * (uint64_t)k->n * 4);
    base->workspace = k->stride * (uint64_t)base->threads;
    base->flags |= MR_K_INPLACE0;
    base->run = rope_run;
    base->release = rope_release;
    return MR_OK;
}

const struct op_row ISA_NAME(rope_rows)[] = {
    { "rope", "xi>x", sizeof(struct rope), rope_prepare },
    { 0 },
};
