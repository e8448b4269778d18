/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_weights.c - weights for a bench. Those of a small model are its fresh ones. Billions of
 * numbers take minutes to draw on a host, so a large model's are drawn for one period and then
 * repeated on the device, each weight by its own scale. The period is a prime: no two rows of a
 * weight are equal, and to the hardware the numbers are as random as any.
 */
#include "bench.h"
#include "core/run/init.h"
#include <stdlib.h>
#include <string.h>

enum { PERIOD = 1048573 };
static const uint64_t FEW = 1ull << 26; /* parameters that are drawn one by one */

/* `have` host bytes at the start of n device bytes, then again and again */
static mr_status repeat(mri_device *d, char *to, const void *from, uint64_t have, uint64_t n,
                        mr_err *err)
{
    mr_status st = mri_device_write(d, to, from, have < n ? have : n, err);
    for (; have < n && !st; have *= 2)
        st = d->ops->copy(d->dev, d->stream, to + have, to, n - have < have ? n - have : have, err);
    return st;
}

static mr_status fill_slot(mri_session *s, const mri_tensor_slot *slot, float *x, void *converted,
                           mr_err *err)
{
    mri_params *p = &s->params;
    uint64_t n = slot->n < PERIOD ? slot->n : PERIOD;
    uint64_t seed = (uint64_t)s->config->model.sizes.seed;
    const struct {
        char *at;
        const char *dtype;
    } copies[] = { { p->weights + slot->at * mr_dtype_bytes(p->dtype), p->dtype },
                   { p->master && p->master != p->weights ? mri_params_master(p, slot) : NULL,
                     p->acc_dtype } };
    mr_status st = mri_init_fill(&slot->desc, slot->name, seed, 0, (int64_t)n, x, err);
    for (int i = 0; i < 2 && !st; i++) {
        uint64_t width = mr_dtype_bytes(copies[i].dtype);
        if (!copies[i].at)
            continue;
        st = mri_convert(converted, copies[i].dtype, x, "f32", n, err);
        if (!st)
            st = repeat(&s->device, copies[i].at, converted, n * width, slot->n * width, err);
    }
    return st;
}

mr_status bench_init_weights(mri_session *s, mr_err *err)
{
    mr_status st = 0;
    if (s->config->model.hf || s->params.count < FEW)
        return mri_session_init_weights(s, err);
    float *x = mri_alloc(PERIOD * sizeof *x);
    void *converted = mri_alloc(PERIOD * sizeof(double));
    for (size_t i = 0; i < s->params.slots.n && !st; i++)
        st = fill_slot(s, &s->params.slots.v[i], x, converted, err);
    free(x);
    free(converted);
    return st ? st : mri_device_sync(&s->device, err);
}
