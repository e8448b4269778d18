/* SPDX-License-Identifier: Apache-2.0
 * export.c - see export.h. */
#include "export.h"
#include "pieces.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static size_t count_words(const char *text)
{
    size_t n = 0;
    for (const char *w = text; *(w += strspn(w, " ")); w += strcspn(w, " "))
        n++;
    return n;
}

mr_status mri_export_slot(const mri_params *p, size_t slot, bool whole, mri_exports *out,
                          mr_err *err)
{
    const mri_tensor_slot *s = &p->slots.v[slot];
    if (whole || !s->desc.tensors) {
        mri_export e = { mri_strdup(s->name), mri_slot_stored(s), slot, 0, 0 };
        MRI_PUSH(out, e);
        return 0;
    }
    bool counted = strchr(s->desc.tensors, '#') && s->desc.type.rank > 1;
    int64_t count = counted ? s->desc.type.dim[0] : 1;
    int64_t words = (int64_t)count_words(s->desc.tensors);
    mr_type t = s->desc.type; /* of one piece: equal shares of the first dim of its own */
    if (counted) {
        t.rank--;
        memmove(t.dim, t.dim + 1, t.rank * sizeof *t.dim);
    }
    bool turned = s->desc.flags & MR_PARAM_TURNED;
    if (turned && t.rank == 2) {
        int64_t rows = t.dim[0];
        t.dim[0] = t.dim[1];
        t.dim[1] = rows;
    }
    if (!words || t.dim[0] % words || (turned && t.rank != 2))
        return mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                       "parameter %s has %" PRId64 " rows for the %" PRId64 " tensors of '%s'",
                       s->name, t.dim[0], words, s->desc.tensors);
    int64_t ld = turned ? t.dim[0] : 0;
    t.dim[0] /= words;
    const uint64_t n = (uint64_t)mr_numel(&t), step = turned ? (uint64_t)t.dim[0] : n;
    for (int64_t i = 0; i < count; i++) {
        uint64_t at = (uint64_t)(i * words) * n;
        for (const char *w = s->desc.tensors; *(w += strspn(w, " ")); at += step) {
            size_t len = strcspn(w, " ");
            mri_export e = { mri_piece_name(s, w, len, i), t, slot, at, ld };
            MRI_PUSH(out, e);
            w += len;
        }
    }
    return 0;
}

static bool holds(const mri_safetensors *f, const mri_quant *q, const char *name)
{
    mri_stored s;
    bool found = false;
    mr_err ignored = MR_ERR_INIT; /* what is there and broken is there */
    return f && (mri_stored_find(f, q, name, &s, &found, &ignored) || found);
}

/* As one tensor? In a folder that has neither form, as the family's checkpoints have it. */
static bool as_whole(const mri_tensor_slot *s, const mri_safetensors *like, const mri_quant *q)
{
    if (holds(like, q, s->name))
        return true;
    if (!s->desc.tensors || !(s->desc.flags & MR_PARAM_WHOLE))
        return false;
    const char *w = s->desc.tensors + strspn(s->desc.tensors, " ");
    char *first = mri_piece_name(s, w, strcspn(w, " "), 0);
    bool parts = holds(like, q, first);
    free(first);
    return !parts;
}

mr_status mri_export_all(const mri_params *p, const mri_safetensors *like, const mri_quant *q,
                         bool usual, mri_exports *out, mr_err *err)
{
    mr_status st = 0;
    for (size_t i = 0; i < p->slots.n && !st; i++)
        st = mri_export_slot(p, i, (usual && (p->slots.v[i].desc.flags & MR_PARAM_WHOLE)) ||
                                       as_whole(&p->slots.v[i], like, q), out, err);
    return st;
}

void mri_exports_free(mri_exports *e)
{
    for (size_t i = 0; i < e->n; i++)
        free(e->v[i].name);
    free(e->v);
    memset(e, 0, sizeof *e);
}
