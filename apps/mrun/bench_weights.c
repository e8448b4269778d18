/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_weights.c - weights for a bench. Those of a small model are its fresh ones. Billions of
 * numbers take minutes to draw on a host, so for a large model one period is drawn for each kind
 * of initialisation, and every weight is that period, begun at a place of its own and repeated on
 * the device. The period is a prime: no two rows of a weight are equal, and to the hardware the
 * numbers are as random as any.
 */
#include "bench.h"
#include "core/run/init.h"
#include <stdlib.h>
#include <string.h>

enum { PERIOD = 1048573, SHIFT = 7919, MOST_KINDS = 16 };
static const uint64_t FEW = 1ull << 26; /* parameters that are drawn one by one */

typedef struct drawn { /* a period of one kind, in the dtypes of weights and masters */
    const char *init;
    double scale;
    char *as[2];
} drawn;

typedef struct filler {
    mri_session *s;
    drawn kinds[MOST_KINDS];
    int n_kinds;
    uint64_t shift; /* where the next weight begins */
} filler;

static mr_status draw(filler *f, const mri_tensor_slot *slot, drawn *k, mr_err *err)
{
    const mri_params *p = &f->s->params;
    const char *const dtypes[] = { p->dtype, p->acc_dtype };
    mr_param desc = slot->desc;
    float *x = mri_alloc(PERIOD * sizeof *x);
    mr_status st = 0;
    desc.type = mr_type1("f32", PERIOD);
    k->init = slot->desc.init;
    k->scale = slot->desc.scale;
    MR_TRY(mri_init_fill(&desc, slot->name, (uint64_t)f->s->config->model.sizes.seed, 0, PERIOD, x,
                         err));
    for (int i = 0; i < 2; i++) {
        k->as[i] = mri_alloc(PERIOD * mr_dtype_bytes(dtypes[i]));
        MR_TRY(mri_convert(k->as[i], dtypes[i], x, "f32", PERIOD, err));
    }
out:
    free(x);
    return st;
}

static mr_status kind_of(filler *f, const mri_tensor_slot *slot, drawn **out, mr_err *err)
{
    for (int i = 0; i < f->n_kinds; i++)
        if (!strcmp(f->kinds[i].init, slot->desc.init) && f->kinds[i].scale == slot->desc.scale) {
            *out = &f->kinds[i];
            return 0;
        }
    if (f->n_kinds == MOST_KINDS) { /* the last one makes room */
        free(f->kinds[--f->n_kinds].as[0]);
        free(f->kinds[f->n_kinds].as[1]);
        f->kinds[f->n_kinds] = (drawn){ 0 };
    }
    *out = &f->kinds[f->n_kinds++];
    return draw(f, slot, *out, err);
}

/* n elements: the period from `first` on and from its start up to there, again and again */
static mr_status repeat(mri_device *d, char *to, const char *period, uint64_t first, uint64_t n,
                        uint64_t width, mr_err *err)
{
    uint64_t head = PERIOD - first < n ? PERIOD - first : n, rest = n - head;
    uint64_t tail = first < rest ? first : rest, have = (head + tail) * width, all = n * width;
    mr_status st = mri_device_write(d, to, period + first * width, head * width, err);
    if (!st && tail)
        st = mri_device_write(d, to + head * width, period, tail * width, err);
    for (; have < all && !st; have *= 2)
        st = d->ops->copy(d->dev, d->stream, to + have, to, all - have < have ? all - have : have,
                          err);
    return st;
}

static mr_status fill_slot(filler *f, const mri_tensor_slot *slot, mr_err *err)
{
    mri_params *p = &f->s->params;
    mri_device *d = &f->s->device;
    size_t width = mr_dtype_bytes(p->dtype);
    drawn *k = NULL;
    mr_status st = kind_of(f, slot, &k, err);
    f->shift = (f->shift + SHIFT) % PERIOD;
    if (!st)
        st = repeat(d, p->weights + slot->at * width, k->as[0], f->shift, slot->n, width, err);
    if (!st && p->master && p->master != p->weights)
        st = repeat(d, mri_params_master(p, slot), k->as[1], f->shift, slot->n,
                    mr_dtype_bytes(p->acc_dtype), err);
    return st;
}

mr_status bench_init_weights(mri_session *s, mr_err *err)
{
    filler f = { .s = s };
    mr_status st = 0;
    if (s->config->model.hf || s->params.count < FEW)
        return mri_session_init_weights(s, err);
    for (size_t i = 0; i < s->params.slots.n && !st; i++)
        st = fill_slot(&f, &s->params.slots.v[i], err);
    for (int i = 0; i < f.n_kinds; i++) {
        free(f.kinds[i].as[0]);
        free(f.kinds[i].as[1]);
    }
    return st ? st : mri_device_sync(&s->device, err);
}
