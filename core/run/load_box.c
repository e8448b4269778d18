/* SPDX-License-Identifier: Apache-2.0
 *
 * load_box.c - see load_box.h.
 *
 * The whole parameter's pieces are ranges of it; what each has in common with the box is a list of
 * runs (core/store/share.h), in the order of the box. They are gathered in one buffer and set part
 * by part.
 *
 * Invariant: the buffer holds elements [first, first + n) of the box, of one dtype.
 */
#include "load_box.h"
#include "shares.h"
#include <stdlib.h>
#include <string.h>

enum { PART = 1 << 20 }; /* elements that are set at a time */

typedef struct gather {
    mri_params *params;
    mri_device *device;
    const mri_tensor_slot *slot;
    const char *dtype;
    char *room; /* PART elements of any dtype */
    uint64_t first, n;
} gather;

static mr_status flush(gather *g, mr_err *err)
{
    mr_status st = 0;
    if (g->n)
        st = mri_params_set_part(g->params, g->device, g->slot, g->first, g->n, g->room, g->dtype,
                                 err);
    g->first += g->n;
    g->n = 0;
    return st;
}

/* Of n elements of a turned matrix from `at` on, how many are read at once: whole rows, or a part
 * of one. */
static uint64_t of_rows(const mri_turned *m, uint64_t at, uint64_t n)
{
    uint64_t cols = (uint64_t)m->cols, left = cols - at % cols;
    return left == cols && n >= cols ? n - n % cols : n < left ? n : left;
}

/* Elements [at, at + n) of a stretch, which are those of the box from `to` on. */
static mr_status take(gather *g, const mri_stretch *x, uint64_t at, uint64_t to, uint64_t n,
                      mr_err *err)
{
    const mri_stored *from = &x->from;
    const char *dtype = x->turned ? "f32" : from->type.dtype;
    size_t width = mr_dtype_bytes(dtype);
    mr_status st = 0;
    if (g->n && (g->first + g->n != to || strcmp(g->dtype, dtype)))
        st = flush(g, err);
    if (!g->n)
        g->first = to;
    g->dtype = dtype;
    for (uint64_t k; n && !st; n -= k, at += k) {
        k = PART - g->n < n ? PART - g->n : n;
        k = x->turned ? of_rows(x->turned, at, k) : k;
        char *out = g->room + g->n * width;
        uint64_t bytes;
        if (x->turned)
            st = mri_turned_read(x->turned, (int64_t)at, (int64_t)k, (float *)(void *)out, err);
        else if (from->rule)
            mri_stored_read(from, (int64_t)at, (int64_t)k, (float *)(void *)out);
        else
            memcpy(out, mri_stored_bytes(from, (int64_t)at, (int64_t)k, &bytes), k * width);
        g->n += k;
        if (g->n == PART && !st)
            st = flush(g, err);
    }
    return st;
}

/* the parameter as a rank that has all of it would know it */
static mri_tensor_slot whole_of(const mri_tensor_slot *s)
{
    mri_tensor_slot w = *s;
    memcpy(w.desc.type.dim, s->place.full, sizeof w.desc.type.dim);
    w.n = (uint64_t)mr_numel(&w.desc.type);
    w.place = (mri_place){ 0 };
    return w;
}

mr_status mri_load_box(mri_params *p, mri_device *d, const mri_safetensors *f, const mri_quant *q,
                       const mri_tensor_slot *s, const char *where, mri_pieces *out, mr_err *err)
{
    const mri_tensor_slot whole = whole_of(s);
    mri_share box = mri_share_of_slot(s), have = { .name = s->name, .box = box.box };
    gather g = { p, d, s, "f32", mri_alloc(PART * sizeof(double)), 0, 0 };
    size_t first = out->list.n;
    mr_status st = 0;
    memset(have.box.at, 0, sizeof have.box.at);
    memcpy(have.box.dim, have.box.full, sizeof have.box.dim);
    MR_TRY(mri_pieces_find(f, q, &whole, where, out, err));
    for (size_t i = first; i < out->list.n; i++) {
        const mri_stretch *x = &out->list.v[i];
        mri_runs runs;
        mri_run r;
        have.from = x->at;
        have.to = x->at + (uint64_t)x->n;
        mri_runs_begin(&runs, &have, &box);
        while (mri_runs_next(&runs, &r)) {
            MR_TRY(take(&g, x, r.a - x->at, r.b, r.n, err));
            out->elements += r.n;
        }
    }
    MR_TRY(flush(&g, err));
out:
    for (size_t i = first; i < out->list.n; i++) /* `whole` ends here */
        out->list.v[i].slot = s;
    free(g.room);
    return st;
}
