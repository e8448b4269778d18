/* SPDX-License-Identifier: Apache-2.0
 *
 * ahead.c - what stands some tokens further on in the same sequence: a number a token, so one
 * thread does it, and sums in double.
 */
#include "vec.h"

struct ahead {
    struct kernel base;
    int64_t tokens, by;
    double keep;
};

#define SELF const struct ahead *k = (const struct ahead *)base

/* the token that t looks at; -1: its sequence ends before */
static int64_t seen_from(const struct ahead *k, const int32_t *start, int64_t t)
{
    return k->by < k->tokens - t && start[t + k->by] == start[t] ? t + k->by : -1;
}

static mr_status ids_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                         mr_err *err)
{
    SELF;
    const int32_t *x = in[0].data, *start = in[1].data;
    int32_t *y = out[0].data;
    for (int64_t t = 0, at; t < k->tokens; t++)
        y[t] = (at = seen_from(k, start, t)) < 0 ? 0 : x[at];
    (void)ws, (void)err;
    return MR_OK;
}

static mr_status weights_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                             void *ws, mr_err *err)
{
    SELF;
    arr x = in_arr(base, in, 0), y = out_arr(base, out, 0);
    const int32_t *start = in[1].data;
    double all = 0, left = 0, scale = 1;
    for (int64_t t = 0, at; t < k->tokens && k->keep > 0; t++) {
        all += (double)get(x, t);
        left += (at = seen_from(k, start, t)) < 0 ? 0 : (double)get(x, at);
    }
    if (k->keep > 0)
        scale = left == 0 ? 0 : k->keep * all / left;
    for (int64_t t = 0, at; t < k->tokens; t++)
        put(y, t, (at = seen_from(k, start, t)) < 0 ? 0 : (float)(scale * (double)get(x, at)));
    (void)ws, (void)err;
    return MR_OK;
}

static mr_status ahead_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct ahead *k = (struct ahead *)base;
    k->tokens = c->in[0]->dim[0];
    k->by = mr_attr_i(c, "by", 1);
    k->keep = mr_attr_f(c, "keep", 0);
    base->run = mr_is(c->in[0], "i32") ? ids_run : weights_run;
    (void)err;
    return MR_OK;
}

const struct op_row ISA_NAME(ahead_rows)[] = {
    { "ahead", "ni>n", sizeof(struct ahead), ahead_prepare },
    { 0 },
};
